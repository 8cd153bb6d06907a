"""Prefetching: the next item of an iterator is made while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Iterator[T], Generic[T]):
    """Prefetching iterator: the same items in the same order, of which the next can be fetched before it is asked for.

    An exception that fetching raises, the end among them, is raised when the item is asked for: what comes before it is
    worked on to its end.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.items = iter(items)
        self.fetched: Callable[[], T] | None = None

    def fetch(self) -> None:
        """Gets the next item, unless that was done."""
        if self.fetched is None:
            self.fetched = _attempt(self.items)

    def __next__(self) -> T:
        self.fetch()
        fetched, self.fetched = self.fetched, None
        assert fetched is not None
        return fetched()


def _attempt(items: Iterator[T]) -> Callable[[], T]:
    """Tries to get the next item; what it returns gives the item or raises what came of it."""
    try:
        item = next(items)
    except Exception as error:
        problem = error

        def fail() -> T:
            raise problem

        return fail
    return lambda: item
