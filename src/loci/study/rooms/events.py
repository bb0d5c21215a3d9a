"""What a video shows on return of something that happened: kept, updated, ghost, duplicate or lost.

The frame of return is compared with renderings of the states that there may be (see
`loci.worlds.rooms.events`), inside the region where any of them shows the object; the nearest by
squared error decides. What that state is called:

| what | known | old | new | both | neither |
|---|---|---|---|---|---|
| moved, rolled | seen, told | ghost | updated | duplicate | lost |
| moved, rolled | none | kept | ghost | duplicate | lost |
| recoloured | seen, told | ghost | updated | | lost |
| recoloured | none | kept | ghost | | lost |
| taken (new: nothing there) | seen, told | ghost | updated | | |
| taken (new: nothing there) | none | kept | lost | | |
| added (old: nothing there) | seen, told | ghost | updated | | |
| added (old: nothing there) | none | kept | ghost | | |

So a ghost is the past, or what never was; lost is nothing where the object is. Where old or new is
an empty place, it is the same state as neither, and nothing can be there twice; what is painted
has one place. Chance is one state of as many: 1/4, 1/3 for recoloured, 1/2 for taken and added.
Where taken and added are seen or told, what forgets is right or wrong by no merit: read them beside
those where nothing happened. Source: ours.
"""

from __future__ import annotations

import numpy as np

from loci.data.truth import Truth
from loci.study.estimates import Tally
from loci.study.rooms.metrics import nearest_candidate, psnr
from loci.study.rooms.objects import CaseScore, tallies
from loci.worlds.rooms.events import Event

OUTCOMES = ("kept", "updated", "ghost", "duplicate", "lost")


def outcome(event: Event, state: str) -> str:
    """What it is called if a video shows `state`, one of the event's states."""
    if event.known == "none":
        gone = event.change.steps[-1] is None
        named = {"old": "kept", "new": "lost" if gone else "ghost"}
    else:
        named = {"old": "ghost", "new": "updated"}
    return (named | {"both": "duplicate", "neither": "lost"})[state]


def score_events(truth: Truth, video: np.ndarray) -> CaseScore:
    """`event_<outcome>_<known>`: shares of the five outcomes, those that cannot be left out;
    `event_right_<what>`: kept or updated; and the PSNR of what was generated. A case in which
    nothing could happen counts for the PSNR alone."""
    scores = tallies(psnr=psnr(video[truth.generated], truth.rgb[truth.generated]))
    event = truth.event
    if event is not None:
        nearest, _ = nearest_candidate(video[event.frame], event.renderings, event.region)
        found = outcome(event, event.states[nearest])
        right = "kept" if event.known == "none" else "updated"
        for name in OUTCOMES:
            if name == right or name not in OUTCOMES[:2]:
                scores[f"event_{name}_{event.known}"] = Tally(found == name, 1)
        scores[f"event_right_{event.change.what}"] = Tally(found == right, 1)
    return CaseScore(scores)
