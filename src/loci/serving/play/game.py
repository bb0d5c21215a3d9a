"""What one page plays: a walk with world models or an episode with policies, whichever was begun
last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loci.errors import LociError, did_you_mean
from loci.models import world, world_action
from loci.serving.play.scene import MOST, Event, Scene, Shown
from loci.serving.play.walking import Walking
from loci.serving.play.watching import Watching

SCENES: Mapping[str, type[Scene]] = {world.KIND: Walking, world_action.KIND: Watching}
BEGINS = {what: kind for kind, scene in SCENES.items() for what in scene.begins}


class Game:
    """load: a model by its name; names: of those that can be chosen, and what each is, the kind of
    its checkpoint. The first of a kind goes along from the start."""

    def __init__(self, load: Callable[[str], Any], names: Mapping[str, str]):
        self.load, self.names = load, dict(names)
        self.scene: Scene | None = None

    def do(self, event: Event) -> Iterator[Shown]:
        """Carry out what somebody does, piece by piece; it is in the log once it is done.
        LociError, with nothing changed, for what cannot be done."""
        what = str(event.get("do"))[:40]
        deeds = {deed for scene in SCENES.values() for deed in scene.deeds}
        if self.scene is None and what in deeds:
            raise LociError("nothing has begun; choose a room or a task")
        here = [*BEGINS, *(self.scene.deeds if self.scene else ())]
        if what not in here:
            raise LociError(f"nothing to do here called '{what}'{did_you_mean(what, here)}")
        if what not in BEGINS:
            assert self.scene is not None
            yield from self.scene.do(event)
            return
        scene = self._scene(BEGINS[what], event.get("names"))
        shown = scene.begin(event)
        first = next(shown)
        # It has begun: whatever is wrong with the event is said before.
        self.scene = scene
        yield first
        yield from shown

    def state(self) -> dict[str, Any]:
        """Where everybody is, and what they hold, as JSON has it."""
        assert self.scene is not None
        return self.scene.state()

    def _scene(self, kind: str, first: Any) -> Scene:
        """A new one. first: the names of those who are to go along (None: who did before)."""
        names = [name for name, other in self.names.items() if other == kind]
        if not names:
            raise LociError(f"no {kind} is there to begin with; name one after `loci play`")
        if first is None:
            same = self.scene is not None and type(self.scene) is SCENES[kind]
            before = self.scene.companions if self.scene is not None and same else {}
            first = [one.name for one in before.values()] or names[:1]
        if not isinstance(first, list) or not 0 < len(first) <= MOST:
            raise LociError(f"names {str(first)[:40]}; give a list of 1 to {MOST} models")
        for name in first:
            if name not in names:
                raise LociError(f"no {kind} '{str(name)[:80]}'"
                                f"{did_you_mean(str(name)[:80], names)}")
        return SCENES[kind](self.load, names, first)
