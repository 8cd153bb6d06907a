"""Names of classes: those of a model, and which output of it the classes of a data set mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from timm.data import ImageNetInfo, infer_imagenet_subset

from ..io.options import suggest
from ..io.printable import printable
from ..io.sources import short_name


def class_names(names: Sequence[str] | Mapping[object, str], count: int) -> tuple[str, ...]:
    """A name for each of `count` classes, the number of those that have none; timm has lists, or names by number.

    They are printable: data sets name their classes likewise.
    """
    by_number = names if isinstance(names, Mapping) else dict(enumerate(names))
    named = {int(str(number)): printable(str(name)) for number, name in by_number.items()}
    return tuple(named.get(i, str(i)) for i in range(count)) if named else ()


def outputs_of(spec: str, classes: Sequence[str], *, names: Sequence[str], count: int) -> tuple[int, ...]:
    """The output of a model that each class of a data set means: by name, or by number where all are numbers.

    Of a model of several tasks, one of which is the data set, the name is `source/class`.

    Where the model has no names of its own, but as many outputs as one of timm's ImageNet subsets has classes, those
    are their names: WordNet ids such as n01440764.

    Args:
        spec: the data set, for messages.
        names: of the model's classes; empty where nobody has named them. count: of its outputs.

    Raises:
        ValueError: a class that is none of the model's, or one of several that it calls the same; a number beyond the
            outputs; names, where the model has none.
    """
    subset = infer_imagenet_subset({"num_classes": count})
    wordnet = ImageNetInfo(subset).label_names() if subset and not names else ()
    of_task = [f"{short_name(spec)}/{name}" for name in classes]
    for named, asked in ((names, classes), (wordnet, classes), (names, of_task)):
        place = {name: i for i, name in enumerate(named)}
        if place and all(name in place for name in asked):
            counts = Counter(named)
            twice = next((name for name in asked if counts[name] > 1), None)
            if twice is not None:
                raise ValueError(
                    f"the model has several classes {twice!r}, of which {spec} names one: rename the others"
                )
            return tuple(place[name] for name in asked)
    if all(name.isascii() and name.isdecimal() for name in classes):
        if (top := max(map(int, classes))) >= count:
            raise ValueError(f"{spec} has the label {top}, the model only {count} classes, from 0 on")
        return tuple(map(int, classes))
    if not names:
        raise ValueError(
            f"{spec} names its classes ({classes[0]!r}, ...), this model with {count} outputs does not: store them, "
            "class_names= of save_adapter or label_names in a timm folder's config.json, or give lists of numbers"
        )
    unknown = next(name for name in classes if name not in names)
    raise ValueError(
        f"class {unknown!r} of {spec} is none of the model's {count}{suggest(unknown, names)}, which are: "
        + ", ".join(names[:5])
        + (", ..." if names[5:] else "")
    )
