"""Steps whose loss leaps are left out: one bad batch should not undo what was learnt.

Source: Echo-Memory's released training (arXiv 2606.09803): a loss of more than 15 times its running
average, from step 100 on. That average, and when to give up, are ours.
"""

from __future__ import annotations

from loci.errors import LociError

AFTER, KEPT, MOST = 100, 0.99, 10


class Spikes:
    """ratio: how many times its running average a loss may be (None: any). average, row: where to
    go on, as `state` gives them."""

    def __init__(self, ratio: float | None, average: float | None = None, row: int = 0):
        self.ratio, self.average, self.row = ratio, average, row

    def leaps(self, step: int, loss: float) -> bool:
        """Whether the step of this loss is to be left out. LociError where many in a row are."""
        if self.ratio is None:
            return False
        if step >= AFTER and self.average is not None and loss > self.ratio * self.average:
            self.row += 1
            if self.row >= MOST:
                raise LociError(
                    f"step {step}: {MOST} steps in a row have losses above {self.ratio:g} times "
                    f"their average of {self.average:.4g}; lower lr, or look at these batches"
                )
            return True
        self.row = 0
        self.average = loss if self.average is None else KEPT * self.average + (1 - KEPT) * loss
        return False

    def state(self) -> list[float | int | None]:
        """What a run's state keeps."""
        return [self.average, self.row]
