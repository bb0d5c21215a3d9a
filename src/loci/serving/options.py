"""How a model is served."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, fields
from pathlib import Path

from loci.errors import LociError


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The settings of a server; LociError for those that none can have.

    host, port: where it listens (port 0: any that is free). api_key: what clients have to know;
    required where others than this machine can connect. certificate, private_key: files of TLS.
    device: where the model is. slots: sessions in memory at once, fewer where `memory`, in GB, does
    not hold them; frames: that a session may see where its memory grows (None: any number, and its
    slot grows). max_sessions: at once, those that wait on disk included. max_batch: requests that
    run together; 1: every answer is that of a lone robot, bit for bit. max_message: bytes; rate:
    requests a second and session (None: any). max_chunks: of a world in one request. saved: the
    folder of sessions that are saved (None: none can be). save_on_exit: living sessions are saved
    when the server ends. keep_lost: as many sessions of clients that vanished are kept, the newest,
    until they come back. seed: of the noise of sessions that give none. steps, temperature: of an
    act or a chunk (None: the model's).
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    device: str = "cpu"
    slots: int = 64
    memory: float = 2.0
    frames: int | None = 512
    max_sessions: int = 256
    max_batch: int = 32
    max_message: int = 64_000_000
    max_chunks: int = 64
    rate: float | None = None
    saved: Path | None = None
    save_on_exit: bool = False
    keep_lost: int = 0
    seed: int = 0
    steps: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("slots", 1), ("frames", 1), ("max_sessions", 1), ("max_batch", 1), ("max_chunks", 1),
            ("max_message", 1000), ("keep_lost", 0), ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise LociError(f"--{flag} {value}; give {least} or more")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise LociError(f"--{field.name} {value}; give a number")
        if not 0 <= self.port < 65536:
            raise LociError(f"--port {self.port}; give 0 to 65535, 0 for any that is free")
        if self.memory <= 0 or (self.rate is not None and self.rate <= 0):
            raise LociError("--memory and --rate are more than 0")
        if self.steps is not None and self.steps < 1:
            raise LociError(f"--steps {self.steps}; give 1 or more")
        if self.temperature is not None and not 0 <= self.temperature <= 1:
            raise LociError(f"--temperature {self.temperature} scales noise; use 0 to 1")
        if not self.loopback and not self.api_key:
            raise LociError(
                f"others can connect to {self.host}; set LOCI_API_KEY to a key that they have to "
                "know, or listen on 127.0.0.1"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()
                                             and " " not in self.api_key and self.api_key):
            raise LociError("the API key has spaces or odd characters; use printable ASCII")
        if (self.certificate is None) != (self.private_key is None):
            raise LociError("TLS takes two files; give both --certificate and --private-key")
        if self.save_on_exit and self.saved is None:
            raise LociError("nowhere to save sessions on exit; give --sessions DIR")
        if self.keep_lost and self.saved is None:
            raise LociError("nowhere to keep lost sessions; give --sessions DIR")

    @property
    def lost(self) -> Path | None:
        """The folder of the sessions whose clients vanished; None where none are kept."""
        return self.saved / "lost" if self.saved is not None and self.keep_lost else None

    @property
    def loopback(self) -> bool:
        """Whether this machine alone can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
