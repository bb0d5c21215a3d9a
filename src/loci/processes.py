"""Work that several processes share, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
# Items that are begun for each process before they are asked for: it never waits, and what waits
# for the reader stays small.
AHEAD = 2


def side_by_side(
    one: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """`one` of each item, in order, by so many processes; with fewer than two, here.

    `one` and what goes in and out of it must be picklable. What was begun for nobody is dropped.
    """
    if workers < 2:
        yield from map(one, items)
        return
    left = iter(items)
    # Not fork: torch's threads may be alive in the parent.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        begun: deque[Future[Result]] = deque()
        try:
            while True:
                wanted = AHEAD * workers - len(begun)
                begun.extend(pool.submit(one, item) for item in islice(left, wanted))
                if not begun:
                    return
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
