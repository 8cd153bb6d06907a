"""Several data sets as the one name that a configuration holds: `eurosat + digits`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_JOINT = " + "


def joined(words: str | Sequence[str]) -> str:
    """What stands for several data sets in a configuration, from the words by which they are named."""
    return words if isinstance(words, str) else _JOINT.join(words)


def sources_of(spec: str) -> tuple[str, ...]:
    """The data sets that a name means, one or several; a local path is one, whatever it is called."""
    if Path(spec).expanduser().exists():
        return (spec,)
    return tuple(part.strip() for part in spec.split(_JOINT))


def short_name(spec: str) -> str:
    """What people call a data set, or several: the last segments of the paths."""
    return _JOINT.join(Path(source).name or source for source in sources_of(spec))
