"""One data set made of several, each a task of its own: the classes of all of them, called `source/class`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from ...io.sources import short_name
from .image_data import ImageData


def join(spec: str, sources: Sequence[ImageData]) -> ImageData:
    """The union of data sets: their classes, source by source, and the splits that all of them have.

    A source is called by the last segment of its path, its class by `source/class`, its image by `source: name`. What
    is asked of a split, `train[:90%]`, is asked of each source apart.

    Raises:
        ValueError: two sources of one name, or one whose labels are no classes.
    """
    names = [short_name(source.spec) for source in sources]
    for name, source in zip(names, sources, strict=True):
        if names.count(name) > 1:
            raise ValueError(
                f"--data has several sources that are called {name!r}: name each once, or rename the folder of one"
            )
        if source.task != "classification":
            raise ValueError(
                f"--data of several sources is for one class per image, and {source.spec} is for {source.task}: train "
                "on it alone"
            )
    together = ImageData(
        spec,
        tuple(f"{name}/{cls}" for name, source in zip(names, sources, strict=True) for cls in source.classes),
        {},
        tuple(dict.fromkeys(chain.from_iterable(source.unlabelled for source in sources))),
        tuple(f"{name}: {line}" for name, source in zip(names, sources, strict=True) for line in source.left_out),
        sources=tuple(sources),
    )
    common = [split for split in sources[0].splits if together.has(split)]
    return ImageData(**{**vars(together), "splits": {split: together.split(split) for split in common}})
