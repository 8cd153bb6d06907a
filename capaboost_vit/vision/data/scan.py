"""Every image of a split is looked at once, by several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from PIL import Image

from .split import Split

T = TypeVar("T")


def unreadable(split: Split, *, workers: int = 0, progress: Callable[[int], None] | None = None) -> dict[int, str]:
    """Why an image cannot be read, by its index; every image is decoded.

    Args:
        workers: threads beside this one.
        progress: is told how many images have been looked at, after each.
    """

    def reason(index: int) -> str | None:
        try:
            split.image(index)
        except ValueError as error:
            return str(error)
        return None

    reasons = {}
    for index, text in enumerate(in_threads(reason, len(split), workers=workers)):
        if text is not None:
            reasons[index] = text
        if progress is not None:
            progress(index + 1)
    return reasons


def in_threads(look: Callable[[int], T], count: int, *, workers: int) -> Iterator[T]:
    """look(0), look(1), ..., in this order, a few ahead of the caller. PIL decodes outside Python's lock."""
    if workers == 0:
        yield from map(look, range(count))
        return
    Image.init()  # its plug-ins, before there are threads
    with ThreadPoolExecutor(workers) as pool:
        indices = iter(range(count))
        waiting = [pool.submit(look, index) for index in islice(indices, 4 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(look, index) for index in islice(indices, 1)]
