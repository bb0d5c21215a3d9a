"""The slots of one preallocated memory, and the files of sessions that wait on disk.

A session is in a slot while it is worked on. One that has to give way is written to a file, bit for
bit, and comes back when it is asked again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loci.errors import LociError
from loci.memory.stores import Tree, below
from loci.models.rollout import DECODER
from loci.streaming import files
from loci.streaming.policy import Policy
from loci.streaming.session import Session

Memory = Policy | Session
# Numbers of a session beside its memory, in this order.
NUMBERS = ("seed", "episode", "made")


@dataclass(eq=False)
class Stream:
    """A session: a stream of the model, wherever it is kept.

    seed, episode: its noise belongs to; made: chunks of them so far. frames: that it has seen.
    pose (4, 4): of the camera now, and decoder: the state of one that goes on from the frames
    before, in worlds. pictures: those that do not fill a frame yet.
    answered: the last request with a number that was carried out, and its answer as it is sent.
    slot: None while it waits in `file`; both None: it has seen nothing. broken: a write was cut
    short, and what it holds is worth nothing. used: when it was last in use, counted.
    """

    name: str
    seed: int = 0
    episode: int = 0
    made: int = 0
    frames: int = 0
    pose: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))
    decoder: Tree = field(default_factory=dict)
    pictures: list[Tensor] = field(default_factory=list)
    instruction: str | None = None
    answered: tuple[int, bytes] | None = None
    slot: int | None = None
    file: Path | None = None
    broken: bool = False
    used: int = 0

    def begin(self) -> None:
        """Nothing of an episode is left; its instruction and its seed stay."""
        self.made = self.frames = 0
        self.pose, self.decoder = torch.eye(4, dtype=torch.float64), {}
        self.pictures = []
        self.broken = False

    def tree(self) -> Tree:
        """What belongs to it beside the memory, as tensors."""
        tree = {
            "serving.numbers": torch.tensor([getattr(self, name) for name in NUMBERS]),
            "serving.pose": self.pose.clone(),
            **self.decoder_tree(),
        }
        if self.instruction is not None:
            said = self.instruction.encode()
            tree["serving.instruction"] = torch.tensor(list(said), dtype=torch.uint8)
        if self.pictures:
            tree["serving.pictures"] = torch.cat(self.pictures)
        if self.answered is not None:
            number, answer = self.answered
            tree["serving.request"] = torch.tensor(number)
            tree["serving.answer"] = torch.frombuffer(bytearray(answer), dtype=torch.uint8)
        return tree

    def decoder_tree(self) -> Tree:
        """The decoder's state, as a rollout saves it (`models/rollout.py`)."""
        return {f"{DECODER}.{name}": part for name, part in self.decoder.items()}

    def take(self, tree: Mapping[str, Tensor]) -> None:
        """Take over what another one left in a tree. What a file of a plain session lacks stays."""
        if "serving.numbers" in tree:
            numbers = tree["serving.numbers"].tolist()
            for name, number in zip(NUMBERS, numbers, strict=True):
                setattr(self, name, number)
            self.pose = tree["serving.pose"].clone()
        self.decoder = below(tree, DECODER)
        said = tree.get("serving.instruction")
        self.instruction = None if said is None else bytes(said.tolist()).decode()
        held = tree.get("serving.pictures")
        self.pictures = [] if held is None else list(held.clone().split(1))
        self.answered = None
        if "serving.answer" in tree:
            answer = tree["serving.answer"].numpy().tobytes()
            self.answered = int(tree["serving.request"]), answer


class Pool:
    """Slots of `memory`, which is a policy or a session of as many streams.

    folder: of the files of sessions that wait; it has to exist. otherwise: the instruction of those
    that are told none, where the model reads instructions. decodes: a session goes on with the
    state of its decoder.
    """

    def __init__(
        self, memory: Memory, folder: Path, otherwise: str = "", decodes: bool = False
    ):
        self.memory, self.folder, self.otherwise = memory, folder, otherwise
        self.decodes = decodes
        self.reads = memory.model.config.text is not None
        if self.reads:
            memory.init(otherwise)
        self.free = list(reversed(range(memory.batch)))
        self.inside: dict[int, Stream] = {}
        self.evicted = self.returned = 0
        self._clock = 0

    def hold(self, streams: Sequence[Stream]) -> list[int]:
        """The slots of some sessions, at most as many as there are; who waited is brought back, and
        who was not used for longest gives way."""
        self._clock += 1
        for stream in streams:
            stream.used = self._clock
        for stream in streams:
            if stream.slot is None:
                self._enter(stream)
        return [stream.slot for stream in streams if stream.slot is not None]

    def leave(self, stream: Stream) -> None:
        """Forget a session."""
        if stream.slot is not None:
            self.memory.reset([stream.slot])
            del self.inside[stream.slot]
            self.free.append(stream.slot)
            stream.slot = None
        if stream.file is not None:
            stream.file.unlink(missing_ok=True)
            stream.file = None

    def snapshot(self, stream: Stream) -> Tree:
        """A session as a tree: its memory, and what belongs to it besides."""
        (slot,) = self.hold([stream])
        return self.memory.snapshot([slot]) | stream.tree()

    def replace(self, stream: Stream, tree: Mapping[str, Tensor]) -> None:
        """A session goes on from what `snapshot` gave. LociError, and nothing changed, for the tree
        of another model."""
        if self.decodes and bool(tree["written"].any()) and not below(tree, DECODER):
            raise LociError(
                "this memory lacks the decoder's state, which this codec goes on from; give one "
                "that was saved with it"
            )
        (slot,) = self.hold([stream])
        self.memory.restore(tree, [slot])
        stream.begin()
        stream.take(tree)
        stream.frames = self.memory.lengths[slot]

    def reset(self, stream: Stream) -> None:
        """A session begins its next episode."""
        (slot,) = self.hold([stream])
        self.memory.reset([slot])
        stream.begin()

    def tell(self, stream: Stream, instruction: str) -> None:
        """From here on a session reads another instruction; LociError where the model reads
        none."""
        (slot,) = self.hold([stream])
        self.memory.tell(instruction, streams=[slot])
        stream.instruction = instruction

    def save(self, stream: Stream, path: Path) -> None:
        """Write a session to a file, whole or not at all."""
        places = self.memory.stream.place_stores
        files.save(path, self.memory.model, self.snapshot(stream), places)

    def load(self, stream: Stream, path: Path) -> None:
        """A session goes on from a file. LociError, and nothing changed, for a damaged one, and for
        that of another model."""
        self.replace(stream, files.load(path, self.memory.model))

    @property
    def bytes(self) -> int:
        """Bytes that the sessions in slots hold; less than what is set aside for them."""
        return sum(self.held(stream) for stream in list(self.inside.values()))

    def held(self, stream: Stream) -> int:
        """Bytes that a session holds in its slot; none while it waits."""
        if stream.slot is None:
            return 0
        return self.memory.stream.bytes(stream.slot) + tensor_bytes(stream.decoder)

    def _enter(self, stream: Stream) -> None:
        if not self.free:
            self._evict(min(self.inside.values(), key=lambda one: one.used))
        slot = self.free.pop()
        if stream.file is not None:
            try:
                tree = files.load(stream.file, self.memory.model)
                self.memory.restore(tree, [slot])
            except LociError:
                self.free.append(slot)
                raise
            stream.decoder = below(tree, DECODER)
            stream.file.unlink(missing_ok=True)
            stream.file = None
            self.returned += 1
        elif self.reads:
            # Whoever was here before was told something else.
            said = self.otherwise if stream.instruction is None else stream.instruction
            self.memory.tell(said, streams=[slot])
        self.inside[slot], stream.slot = stream, slot

    def _evict(self, stream: Stream) -> None:
        assert stream.slot is not None
        if stream.frames and not stream.broken:
            path = self.folder / f"{stream.name}-{secrets.token_hex(4)}.safetensors"
            # What else it holds is little, and stays here.
            tree = self.memory.snapshot([stream.slot]) | stream.decoder_tree()
            files.save(path, self.memory.model, tree)
            stream.file, stream.decoder = path, {}
        self.memory.reset([stream.slot])
        del self.inside[stream.slot]
        self.free.append(stream.slot)
        stream.slot = None
        self.evicted += 1


def allocated(memory: Memory) -> int:
    """Bytes that are set aside for a memory."""
    return sum(tensor_bytes(vars(store)) for store in memory.stream.stores)


def tensor_bytes(held: Any) -> int:
    """Bytes of the tensors in maps, lists and tuples."""
    if isinstance(held, Tensor):
        return held.numel() * held.element_size()
    if isinstance(held, Mapping):
        return sum(tensor_bytes(value) for value in held.values())
    return sum(tensor_bytes(value) for value in held) if isinstance(held, list | tuple) else 0


def check_folder(folder: Path) -> None:
    """LociError where sessions cannot be kept in a folder; it is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LociError(f"cannot keep sessions in {folder}: {error.strerror}; choose another "
                        "folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LociError(f"no permission in {folder}; choose another folder for sessions")
