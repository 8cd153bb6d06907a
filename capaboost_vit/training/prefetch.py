"""Prefetching: the next item of an iterator is made while the device computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Iterator[T], Generic[T]):
    """Prefetching iterator: the same items in the same order, of which the next can be fetched before it is asked for.

    An exception of fetching, the end among them, is raised when the item is asked for: what comes before it is worked
    on to its end. No thread is started: `fetch` does the work.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.items = iter(items)
        self.fetched: Future[T] | None = None

    def fetch(self) -> None:
        """Gets the next item, unless that was done."""
        if self.fetched is None:
            self.fetched = Future()
            try:
                self.fetched.set_result(next(self.items))
            except Exception as error:
                self.fetched.set_exception(error)

    def __next__(self) -> T:
        self.fetch()
        fetched, self.fetched = self.fetched, None
        assert fetched is not None
        return fetched.result()
