"""What every session can be asked for, whatever model it is of: it begins anew, is saved, restored
and forked, and goes on once its client has come back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from loci.errors import LociError, did_you_mean
from loci.serving import protocol
from loci.serving.options import ServeOptions
from loci.serving.pool import Pool, Stream
from loci.serving.protocol import Message
from loci.serving.service import Answer, Call

SUFFIX = ".safetensors"


class Control:
    """The requests of `protocol.CONTROL`, and the engine's own, "again", "keep" and "close".
    sessions: those that live, by name. lost: those that were kept so far since their clients
    vanished."""

    def __init__(self, pool: Pool, sessions: dict[str, Stream], options: ServeOptions):
        self.pool, self.sessions, self.options = pool, sessions, options
        self.lost = 0

    def read(self, stream: Stream, op: str, message: Message) -> Call:
        """A request as a call; LociError for one that cannot be carried out."""
        readers: Mapping[str, Callable[[Stream, Message], object]] = {
            "reset": self._read_reset, "instruction": self._read_instruction,
            "seed": self._read_seed, "save": self._read_save, "restore": self._read_restore,
            "fork": self._read_fork, "resume": self._read_resume,
            "info": lambda stream, message: None,
        }
        return Call(stream, op, given=readers[op](stream, message))

    def run(self, call: Call) -> None:
        """Carry out a call: it has its answer or its error then."""
        try:
            call.answer = getattr(self, f"_{call.op}")(call.stream, call.given)
        except LociError as error:
            call.error = error
        except Exception as error:  # noqa: BLE001 (the client is told, the thread goes on)
            call.error = error

    def _read_reset(self, stream: Stream, message: Message) -> object:
        seed = message.get("seed")
        said = protocol.text(message, "instruction", "prompt")
        if said is not None and not self.pool.reads:
            said = None  # as in an observation: a model that reads none was trained for one task
        return (
            said, None if seed is None else protocol.whole(message, "seed"),
            protocol.whole(message, "episode", stream.episode + 1 if seed is None else 0),
        )

    def _reset(self, stream: Stream, given: tuple[str | None, int | None, int]) -> Answer:
        said, seed, episode = given
        if said is not None:
            self.pool.tell(stream, said)
        self.pool.reset(stream)
        stream.seed = stream.seed if seed is None else seed
        stream.episode = episode
        return self._info(stream)

    def _read_instruction(self, stream: Stream, message: Message) -> object:
        said = protocol.text(message, "instruction", "prompt")
        if said is None:
            raise LociError("no instruction; give 'instruction'")
        if not self.pool.reads:
            raise LociError("this model reads no instructions; it was trained for one task")
        return said

    def _instruction(self, stream: Stream, said: str) -> Answer:
        self.pool.tell(stream, said)
        return self._info(stream)

    def _read_seed(self, stream: Stream, message: Message) -> object:
        return protocol.whole(message, "seed"), protocol.whole(message, "episode")

    def _seed(self, stream: Stream, given: tuple[int, int]) -> Answer:
        stream.seed, stream.episode = given
        return self._info(stream)

    def _read_save(self, stream: Stream, message: Message) -> object:
        return protocol.saved_name(message), protocol.truth(message, "replace")

    def _save(self, stream: Stream, given: tuple[str, bool]) -> Answer:
        name, replace = given
        path = self._file(name)
        if path.exists() and not replace:
            raise LociError(f"a session is saved as '{name}'; choose another name, or give replace")
        self.pool.save(stream, path)
        return self._info(stream) | {"name": name, "bytes": path.stat().st_size}

    def _keep(self, stream: Stream, lost: bool) -> Answer:
        """Save a session under its own name, beside those that clients saved or among the lost
        ones, if there is anything to save."""
        kept = not stream.broken and (stream.frames > 0 or stream.answered is not None)
        if kept:
            self.pool.save(stream, self._lost(stream.name) if lost else self._file(stream.name))
        if kept and lost:
            self.lost += 1
            self._forget_old()
        return {"kept": kept}

    def _forget_old(self) -> None:
        """Remove the oldest of the lost sessions beyond those that are kept. Other processes may do
        the same in this folder."""
        ages: list[tuple[float, Path]] = []
        for path in self._lost("x").parent.glob(f"[!.]*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                ages.append((path.stat().st_mtime, path))
        for _, path in sorted(ages, reverse=True)[self.options.keep_lost :]:
            path.unlink(missing_ok=True)

    def _read_restore(self, stream: Stream, message: Message) -> object:
        name = protocol.saved_name(message)
        if not self._file(name).exists():
            known = sorted(path.stem for path in self._file("x").parent.glob(f"[!.]*{SUFFIX}"))
            raise LociError(f"no session is saved as '{name}'{did_you_mean(name, known[:20])}")
        return name

    def _restore(self, stream: Stream, name: str) -> Answer:
        self.pool.load(stream, self._file(name))
        return self._info(stream)

    def _read_fork(self, stream: Stream, message: Message) -> object:
        name = protocol.text(message, "session")
        if name == stream.name:
            raise LociError("a session cannot fork itself; open another connection and fork there")
        if name not in self.sessions:
            raise LociError("no such session lives here; give the 'session' of its metadata")
        return name

    def _fork(self, stream: Stream, name: str) -> Answer:
        if name not in self.sessions:
            raise LociError("the session has ended meanwhile; restore a saved one")
        source = self.sessions[name]
        if source.broken:
            raise LociError("that session is half-written; restore a saved one")
        self.pool.replace(stream, self.pool.snapshot(source))
        return self._info(stream)

    def _read_resume(self, stream: Stream, message: Message) -> object:
        name = protocol.saved_name(message, "session")
        if name == stream.name:
            raise LociError("this session is not lost; resume one whose connection broke")
        self._lost(name)
        return name

    def _resume(self, stream: Stream, name: str) -> Answer:
        """A session becomes one that was lost, under its name."""
        path = self._lost(name)
        if name in self.sessions or not path.exists():
            raise LociError(
                f"no session '{name}' is lost here; it ended, or others have been kept since, or "
                "its connection has not been missed yet"
            )
        self.pool.load(stream, path)
        del self.sessions[stream.name]
        stream.name = name
        self.sessions[name] = stream
        return self._info(stream)

    def _again(self, stream: Stream, answer: Answer) -> Answer:
        """What was answered to a request that comes a second time."""
        return answer

    def _info(self, stream: Stream, given: object = None) -> Answer:
        return {
            "session": stream.name, "frames": stream.frames, "bytes": self.pool.held(stream),
            "seed": stream.seed, "episode": stream.episode, "instruction": stream.instruction,
        }

    def _close(self, stream: Stream, lost: bool) -> Answer:
        """Forget a session. Where it says goodbye, nothing is left of the times that it was
        lost."""
        self.pool.leave(stream)
        self.sessions.pop(stream.name, None)
        if not lost and self.options.keep_lost:
            self._lost(stream.name).unlink(missing_ok=True)
        return {}

    def _lost(self, name: str) -> Path:
        if self.options.lost is None:
            raise LociError("this server keeps no lost sessions; start it with --keep-lost N")
        return self.options.lost / f"{name}{SUFFIX}"

    def _file(self, name: str) -> Path:
        if self.options.saved is None:
            raise LociError("this server keeps no sessions; start it with --sessions DIR")
        return self.options.saved / f"{name}{SUFFIX}"
