"""What a step leaves to the garbage collector: no tensor, where memory is dear."""

from __future__ import annotations

import gc
from collections.abc import Callable

from torch import Tensor


def left_to_collect(act: Callable[[], object]) -> list[str]:
    """The shapes of tensors that `act` leaves in circles of references."""
    act()  # what a first call sets up stays
    flags = gc.get_debug()
    gc.disable()
    gc.freeze()  # what was there before is not gone through again
    try:
        act()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [str(tuple(left.shape)) for left in gc.garbage if isinstance(left, Tensor)]
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
