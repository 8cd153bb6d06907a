"""Pictures copied into folders by their predicted class, or into those of all their tags."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from .predict import Prediction

NO_TAG = "none"
_MOST = 10  # classes that the summary names


class Sorter:
    """Copies each picture into `folder / answer / name`; nothing is moved, and nothing overwritten.

    Where a file of that name is there, a copy of the same bytes stays as it is, and another picture becomes
    `name-2.png`, `name-3.png`, ... What no folder can be called in a class name (`/`, control codes, a dot at the
    start) becomes `_`. A picture of several tags is copied into the folder of each, one without any into `none`.

    Args:
        threshold: see `Prediction.answer`; of no use where there are tags.
        of_tags: whether the classes of a prediction are tags.

    Raises:
        NotADirectoryError: the folder is a file.
    """

    def __init__(self, folder: Path, threshold: float = 0.0, *, of_tags: bool = False) -> None:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"--sort-into {folder} is a file: name a folder")
        self.folder, self.threshold, self.of_tags = folder, threshold, of_tags
        self.copied: Counter[str] = Counter()
        self.pictures = 0  # that were copied, once or several times
        self.there = 0  # that an earlier run has copied

    def sorting(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions; each picture is copied before its prediction is given on."""
        for prediction in predictions:
            answers = (prediction.classes or (NO_TAG,)) if self.of_tags else (prediction.answer(self.threshold),)
            copied = [answer for answer in answers if self._copied(prediction.image, answer)]
            self.copied.update(copied)
            if copied:
                self.pictures += 1
            else:
                self.there += 1
            yield prediction

    def _copied(self, picture: Path, answer: str) -> bool:
        """Whether the picture was copied into the folder of an answer."""
        into = self.folder / re.sub(r"[\x00-\x1f\x7f/\\]|^\.", "_", answer)
        into.mkdir(parents=True, exist_ok=True)
        return _copy(picture, into)

    def summary(self) -> str:
        """One line: how many pictures were copied, by class, the largest first."""
        counts = [f"{name} {number}" for name, number in self.copied.most_common(_MOST)]
        counts += [f"{len(self.copied) - _MOST} more classes"] if len(self.copied) > _MOST else []
        text = f"sorted: {self.pictures} pictures copied into {self.folder}"
        text += f" ({', '.join(counts)})" if counts else ""
        return text + (f"; {self.there} were there already" if self.there else "")


def _copy(picture: Path, folder: Path) -> bool:
    """Whether the picture was copied: false where its bytes are there under its name, or one that was made of it."""
    for number in count(1):
        target = folder / (picture.name if number == 1 else f"{picture.stem}-{number}{picture.suffix}")
        if target.exists() and filecmp.cmp(picture, target, shallow=False):
            return False
        try:
            with picture.open("rb") as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
        except FileExistsError:
            continue
        shutil.copystat(picture, target)
        return True
    raise AssertionError
