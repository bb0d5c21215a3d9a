"""Sessions and requests of one model on one device.

A single thread works. It takes whatever requests wait, those together that can run together, and
answers each; new ones join before the next batch, and nobody waits for the longest. A session has
one request at a time, so that no more wait than there are sessions: who sends more meets a socket
that is not read. A request that nobody wants any more, or that waited beyond its deadline, is
dropped before it runs. One that ran is answered, or its error is.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from loci.errors import LociError
from loci.serving import protocol
from loci.serving.client.wire import pack, unpack
from loci.serving.control import Control
from loci.serving.log import log, log_failure
from loci.serving.metrics import Metrics
from loci.serving.options import ServeOptions
from loci.serving.pool import Stream, check_folder
from loci.serving.protocol import Message, Refusal
from loci.serving.service import Answer, Call, Service


@dataclass(eq=False)
class Waiting:
    """A call in the queue. until: when it is worth nothing any more."""

    call: Call
    until: float | None
    since: float = field(default_factory=time.monotonic)
    future: Future[Answer] = field(default_factory=Future)


class Engine:
    """The sessions of a model, and the thread that works for them.

    make: the service, of the folder for sessions that wait, which the engine owns. Raises LociError
    where a folder cannot be used.
    """

    def __init__(self, options: ServeOptions, make: Callable[[ServeOptions, Path], Service]):
        for folder in (options.saved, options.lost):
            if folder is not None:
                check_folder(folder)
        self.options = options
        self._aside = tempfile.TemporaryDirectory(prefix="loci-serve-", ignore_cleanup_errors=True)
        self.service = make(options, Path(self._aside.name))
        self.pool = self.service.pool
        self.sessions: dict[str, Stream] = {}
        self.control = Control(self.pool, self.sessions, options)
        self.closing = False
        self._queue: deque[Waiting] = deque()
        self._wake = threading.Condition()
        self._ended = False
        self.metrics = Metrics({
            "sessions": ("Sessions that are connected", lambda: len(self.sessions)),
            "sessions_in_slots": ("Sessions in memory", lambda: len(self.pool.inside)),
            "slots": ("Sessions that fit into memory", lambda: self.pool.memory.batch),
            "queue": ("Requests that wait", lambda: self.waiting),
            "evictions": ("Sessions put aside on disk so far", lambda: self.pool.evicted),
            "returns": ("Sessions brought back from disk so far", lambda: self.pool.returned),
            "lost": ("Sessions kept so far after their clients vanished",
                     lambda: self.control.lost),
            "held_bytes": ("Bytes that sessions in memory hold", lambda: self.pool.bytes),
        })
        self._thread = threading.Thread(target=self._work, name="loci-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def open(self) -> Stream:
        """A new session. Raises Refusal where there are as many as there may be."""
        if self.closing:
            raise Refusal("closing", "the server ends; connect to another one")
        if len(self.sessions) >= self.options.max_sessions:
            raise Refusal("limited", f"{len(self.sessions)} sessions are all that are served here; "
                                     "try again later")
        stream = Stream(secrets.token_hex(8), seed=self.options.seed)
        self.sessions[stream.name] = stream
        return stream

    def read(self, stream: Stream, message: Message) -> list[Call]:
        """The calls that a request stands for; LociError for one that cannot be carried out."""
        known = (*self.service.ops, *protocol.CONTROL)
        op, number = protocol.op(message, known, self.service.default), protocol.number(message)
        if number is not None and stream.answered is not None and stream.answered[0] == number:
            return [Call(stream, "again", given=unpack(stream.answered[1]))]
        if stream.broken and op not in ("reset", "restore", "fork", "resume", "init",
                                         "info"):
            raise Refusal("failed", "an earlier request broke off and left this session "
                                    "half-written; reset it, or restore a saved one")
        if op in protocol.CONTROL:
            calls = [self.control.read(stream, op, message)]
        else:
            calls = self.service.read(stream, op, message)
        if number is not None and len(calls) > 1:
            raise LociError(
                f"{len(calls)} chunks under one id; what is carried out once has one answer: ask "
                "for them one by one"
            )
        calls[0].number = number
        return calls

    async def ask(self, call: Call, until: float | None = None) -> Answer:
        """Carry out a call. Cancelled while it waits, it never runs. until: as `time.monotonic`
        counts. Raises LociError for what is refused, Refusal where the server ends."""
        if self.closing:
            raise Refusal("closing", "the server ends; restore the session on another one")
        return await self._ask(call, until)

    async def close(self, stream: Stream, lost: bool = False) -> bool:
        """Forget a session, once what it asked for is done. One whose client vanished (`lost`) is
        kept before, where that was asked for; whether it was."""
        # At the end of the server, `shut_down` keeps them.
        keep = lost and self.options.keep_lost > 0 and not self.closing
        kept = keep and await self._kept(stream, True)
        if stream.name in self.sessions:
            await self._ask(Call(stream, "close", given=lost))
        return kept

    async def shut_down(self) -> list[str]:
        """Answer what waits, take nothing new, and end; the names of the sessions that were
        saved. Where lost sessions are kept, all that live now are lost."""
        self.closing = True
        saved = []
        for stream in list(self.sessions.values()):
            if self.options.save_on_exit and await self._kept(stream, False):
                saved.append(stream.name)
            if self.options.keep_lost:
                await self._kept(stream, True)
        await asyncio.to_thread(self.end)
        return saved

    def end(self) -> None:
        """Answer what waits, and end the thread."""
        self.closing = True
        with self._wake:
            self._ended = True
            self._wake.notify()
        self._thread.join()
        self._aside.cleanup()

    async def _kept(self, stream: Stream, lost: bool) -> bool:
        """Save a session under its own name; whether it is saved."""
        try:
            return (await self._ask(Call(stream, "keep", given=lost)))["kept"]
        except LociError as error:
            log("not saved", level="error", session=stream.name, error=str(error))
            return False

    async def _ask(self, call: Call, until: float | None = None) -> Answer:
        waiting = Waiting(call, until)
        with self._wake:
            if self._ended:
                raise Refusal("closing", "the server has ended; connect to another one")
            self._queue.append(waiting)
            self._wake.notify()
        return await asyncio.wrap_future(waiting.future)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._ended:
                    self._wake.wait()
                if not self._queue:
                    return
                batch = self._take()
            if batch:
                self._run(batch)

    def _take(self) -> list[Waiting]:
        """The next requests that run together, the oldest first. No session is in it twice: it has
        one request at a time, and its end."""
        batch: list[Waiting] = []
        most = min(self.options.max_batch, self.pool.memory.batch)
        passed: list[Waiting] = []
        while self._queue and len(batch) < most:
            waiting = self._queue.popleft()
            key = waiting.call.key
            if batch and (key is None or key != batch[0].call.key):
                passed.append(waiting)
            elif self._wanted(waiting):
                batch.append(waiting)
                if key is None:
                    break
        self._queue.extendleft(reversed(passed))
        return batch

    def _wanted(self, waiting: Waiting) -> bool:
        """Whether a request is to run; one that came too late is answered here."""
        if not waiting.future.set_running_or_notify_cancel():
            self._count(waiting.call, "dropped")
            return False
        if waiting.until is not None and time.monotonic() > waiting.until:
            self._count(waiting.call, "late")
            late = "the request waited beyond its deadline and was not carried out"
            waiting.future.set_exception(Refusal("late", late))
            return False
        return True

    def _run(self, batch: list[Waiting]) -> None:
        calls, began = [waiting.call for waiting in batch], time.monotonic()
        for waiting in batch:
            waiting.call.times["queue_ms"] = 1000 * (began - waiting.since)
        if calls[0].key is None:
            self.control.run(calls[0])
        else:
            self.metrics.batches.observe(len(calls))
            try:
                self.service.run(calls)
            except Exception as error:  # noqa: BLE001 (the clients are told, the thread goes on)
                for call in calls:
                    call.error = call.error or error
        took = 1000 * (time.monotonic() - began)
        for waiting in batch:
            waiting.call.times["infer_ms"] = took
            self._answer(waiting)

    def _answer(self, waiting: Waiting) -> None:
        call = waiting.call
        for stage, milliseconds in call.times.items():
            self.metrics.seconds.labels(stage.removesuffix("_ms")).observe(milliseconds / 1000)
        if call.error is None:
            self._count(call, "done")
            if call.number is not None and self.options.keep_lost:
                call.stream.answered = call.number, pack(call.answer)
            waiting.future.set_result(call.answer or {})
        elif isinstance(call.error, LociError):
            self._count(call, "refused")
            waiting.future.set_exception(call.error)
        else:
            self._count(call, "failed")
            log_failure("failed", call.error, op=call.op, session=call.stream.name)
            line = f"{type(call.error).__name__} in the server; its log says more"
            waiting.future.set_exception(Refusal("failed", line))

    def _count(self, call: Call, outcome: str) -> None:
        self.metrics.requests.labels(call.op, outcome).inc()
