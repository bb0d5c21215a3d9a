"""The world model: a codec, a Wan transformer and a memory row, in one configuration.

First frame and camera path in; video out, chunk by chunk, with a stream (`Session`) that holds the
memory. The model owns no state. Training goes through `forward`: a whole episode in one pass, every
chunk from the clean frames before it, under the mechanism's rule. A stream executes the same model
under the same rule frame by frame; that both agree is a conformance test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import loci.models.umt5  # noqa: F401 (a choice of text encoder)
from loci.attention.cross import Cross, read_at
from loci.config import Config, added_field
from loci.errors import LociError
from loci.flow import Flow
from loci.geometry import Camera, relative_to
from loci.memory.base import Memory
from loci.memory.frames import Frames
from loci.memory.stores import Chunks, Episode, Evidence, Setting, Store
from loci.models.camera import Motion
from loci.models.card import About
from loci.models.chunk_path import ChunkLayout, ChunkPath
from loci.models.codecs import CodecConfig
from loci.models.mot import run
from loci.models.positions import Positions
from loci.models.pretrained import Pretrained
from loci.models.rope import token_rays
from loci.models.text import TextEncoder
from loci.models.trunk import TokenStream
from loci.models.wan import Wan, WanConfig
from loci.rules.rule import Coords, Kind
from loci.streaming.frame_buffer import observing
from loci.streaming.kv_cache import KVCache, KVShape
from loci.streaming.session import Session
from loci.streaming.state_cache import StateCache

KIND = "world-model"


@dataclass(frozen=True, kw_only=True)
class WorldConfig(Config):
    """Everything that a world model is. Rows of a study differ in `memory` alone.

    `chunk`: frames that are generated together; `steps`: Euler steps for each chunk; `text`: how a
    sentence becomes tokens that `dit` reads (None: only embeddings can be told); `motion`: how
    poses become the numbers of camera "inject"; `guidance`, `negative`: what a session begins with
    (`Session.guide`). `restart`: every chunk is a video of its own, which begins with the last
    picture once more; of its pictures every `restart`-th is written, encoded by itself. 0: none is,
    the codec goes on from chunk to chunk. Source of the last four: Echo-Memory's release.
    """

    memory: Memory
    dit: WanConfig
    codec: CodecConfig
    flow: Flow
    camera: Camera
    chunk: int = 4
    steps: int = 10
    text: TextEncoder | None = added_field(None)  # noqa: RUF009 (a field)
    motion: Motion = added_field(Motion())  # noqa: RUF009
    guidance: float = added_field(1.0)
    negative: str = added_field("")
    restart: int = added_field(0)

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.steps < 1:
            raise LociError("chunk and steps must be 1 or more")
        if self.text is not None and not self.dit.text_dim:
            raise LociError("sentences for a transformer without text; set dit.text_dim")
        if self.text is None and self.guidance != 1:
            raise LociError("guidance towards a text, and no `text` to encode it; name an encoder")
        if self.restart < 0 or (self.restart and self.chunk < 2):
            raise LociError("restart is every how many pictures one is written, 0 for a codec that "
                            "goes on; it takes chunks of 2 or more")
        if self.dit.patch[0] != 1:
            raise LociError("a latent frame is one step of time; use a patch of 1 in time")
        rotary, ordered = self.dit.camera == "rotary", self.memory.restarts
        if self.memory.joint and rotary and not ordered and self.memory.placement != "suffix":
            raise LociError(
                f"placement '{self.memory.placement}' would change nothing: it is a place in time, "
                "and the angles of camera 'rotary' know none; leave it out, or use camera 'inject'"
            )
        joint = self.memory.beside
        silent = joint is not None and not joint.posed
        if self.dit.camera != "inject" and (silent or self.motion != Motion()):
            raise LociError(f"camera '{self.dit.camera}' takes in no numbers of poses, so that "
                            "motion and posed change nothing; leave them out, or use 'inject'")

    @property
    def new_frames(self) -> int:
        """Frames that a chunk goes on by: a chunk that is a video of its own begins with the last
        one once more."""
        return self.chunk - 1 if self.restart else self.chunk

    def build(self) -> WorldModel:
        return WorldModel(self)


class WorldModel(Pretrained):
    """Codec, transformer and the learned part of the memory: the gist bank, a mixer, states."""

    kind = KIND
    config_type = WorldConfig
    about = About(
        "image-to-video",
        "A video world model of Loci: a first frame and a camera path in, video out, chunk by "
        "chunk, with a memory.",
        "session = model.session()",
    )

    def __init__(self, config: WorldConfig):
        super().__init__()
        self.config = config
        memory, dit = config.memory, config.dit
        self.codec = config.codec.build()
        self.dit = Wan(dit, memory.ports(dit.in_channels))
        # MemoryWAM: a shared learnable bank (M, hidden) of standard deviation hidden^-1/2.
        bank = torch.randn(memory.gists, dit.dim) / dit.dim**0.5
        # Without gists it is there for its place and dtype alone: nothing to train or to shard.
        self.gist_bank: Tensor = nn.Parameter(bank) if memory.gists else nn.Buffer(bank)
        self.latent_shape: tuple[int, int, int] = self.codec.latent_shape(config.camera)
        channels, height, width = self.latent_shape
        if channels != dit.in_channels or dit.out_channels not in (0, channels):
            raise LociError(
                f"the codec has {channels} channels, the transformer {dit.in_channels} in and "
                f"{dit.out_channels} out; give all three the same number (or 0 out, where no "
                "frames are predicted)"
            )
        _, rows, cols = dit.patch
        if height % rows or width % cols:
            raise LociError(
                f"latents of {height}x{width} do not split into patches of {rows}x{cols}; "
                "change the camera size or the patch"
            )
        self.grid = (height // rows, width // cols)
        if memory.joint and (self.grid[0] % memory.shrink or self.grid[1] % memory.shrink):
            raise LociError(
                f"frames of {self.grid[0]}x{self.grid[1]} tokens do not shrink by {memory.shrink} "
                "a side; choose a compression that divides them"
            )
        self.positions = Positions(config.camera, self.grid, memory, dit, config.motion)
        self.mixer, self.summary = memory.mixer(channels), memory.summary(dit.dim)
        if getattr(self.summary, "as_text", False) and not dit.text_dim:
            raise LociError("blocks without text read no memory tokens behind it; set dit.text_dim "
                            "or choose another read-out")
        states = {
            (layer, name): state for layer in range(-1, dit.num_layers)
            for name, state in memory.states(layer, dit.dim, dit.num_heads, self.grid).items()
        }
        self.states = {key: state for key, state in states.items() if state.carried}
        self.scans = {key: state for key, state in states.items() if not state.carried}
        # The released checkpoints' word for it.
        self.carry = nn.ModuleDict({
            "-".join(filter(None, (f"block{layer}", name))): state
            for (layer, name), state in states.items()
        })
        if self.scans and (not memory.joint or memory.shrink > 1):
            raise LociError("a state that is not carried runs over a chunk and whole frames beside "
                            "it, and there are none; compose it with joint frames")
        if self.writes and config.motion.reference == "chunk":
            raise LociError("poses relative to the chunk say nothing of frames that are written; "
                            "use a memory of joint frames alone, or motion relative to the stream")

    @property
    def chunks(self) -> ChunkPath:
        """How chunks, and what stands beside them, go through the network."""
        return ChunkPath(self)

    @property
    def tokens(self) -> int:
        """Tokens of a frame, L."""
        return self.grid[0] * self.grid[1]

    @property
    def writes(self) -> bool:
        """Whether written frames go through the network: somebody sees or carries them."""
        kept = self.config.memory.retention()
        return any(kept.growth(kind) != "never" for kind in kept.kinds) or bool(self.states)

    def stores(
        self, batch: int, frames: int = 0, scratch: int = 0, actions: int = 0,
        memory: Memory | None = None, int8_kv: bool = False,
    ) -> list[Store]:
        """What `batch` streams keep, empty, in the order in which it is asked.

        frames: as many fit before buffers grow; scratch: tokens that are denoised at once; actions:
        executed actions between two frames; memory: in place of the model's own; int8_kv: keys and
        values in int8.
        """
        dit, weight, memory = self.config.dit, self.gist_bank, memory or self.config.memory
        setting = Setting(
            batch, self.latent_shape, self.tokens, self.config.camera, weight.device, weight.dtype,
            self.encode_pictures,
        )
        sizes = {Kind.CLEAN: self.tokens, Kind.GIST: memory.gists, Kind.EXECUTED: actions}
        shape = KVShape(dit.num_layers, dit.num_heads, dit.head_dim,
                        {kind: size for kind, size in sizes.items() if size})
        return [
            *observing(memory, setting, frames),
            *([StateCache(self.states, batch)] if self.states else []),
            KVCache(memory.rule(), memory.retention(), shape, batch, frames, scratch,
                    weight.device, weight.dtype, int8_kv),
        ]

    def forward(
        self, clean: Tensor, noisy: Tensor, time: Tensor, poses: Tensor, starts: Sequence[int], *,
        clean_time: Tensor | None = None, dropped: Tensor | None = None,
        attention: str = "windowed", text: Cross | None = None, since: Sequence[int] | None = None,
        extras: Mapping[str, Tensor] | None = None, surveyed: Mapping[str, Tensor] | None = None,
        told: Tensor | None = None, recompute: bool = False,
    ) -> Tensor:
        """Predict every chunk of an episode at once, each from the clean frames before it.

        clean (B, T, C, h, w); noisy (B, G, n, C, h, w), chunk g covering the frames from starts[g];
        time (B, G) its noise level; poses (B, T, 4, 4) camera-to-world; clean_time (B, T) the noise
        level of the clean frames where they were noised (default 0); dropped (B,) booleans, the
        episodes for which a memory with a `drop` finds nothing. attention: see
        `attention/forms.py`. text: rows B, what each episode is told; since (B): the frame from
        which on, and before it the text's last row, of B + 1. extras: what the memory asks for
        besides (`Memory.wants`), (B, T, ...); surveyed: in their place what a `Surveyor` made of
        them. told (B, T, 4, 4): poses of the clean frames, where the memory is told others than
        those of the chunks, the first of them the same. recompute: as for `mot.run`. Returns the
        network's output, the shape of `noisy`.
        """
        span = noisy.shape[2]
        if len(starts) != noisy.shape[1] or min(starts) < 1 or max(starts) + span > clean.shape[1]:
            raise LociError(
                f"chunks of {span} frames from {list(starts)} for {noisy.shape[1]} chunks in "
                f"{clean.shape[1]} frames; each needs a frame before it and its own"
            )
        if clean_time is None:
            clean_time = torch.zeros(clean.shape[:2], device=clean.device)
        told = relative_to(poses[:, 0], poses if told is None else told)
        poses = relative_to(poses[:, 0], poses)
        frames = Frames(clean, told, clean_time, **(extras or {}))
        if surveyed is None:
            self.check_extras(frames)
        written = self.positions.written(torch.arange(clean.shape[1])) if self.writes else None
        drawn = self.positions.chunks(torch.tensor(starts), span, self.beside(starts))
        chunks = Chunks.along(poses, starts, span, drawn)
        evidence = self.packed(Episode(frames, written, [chunks], dropped, attention, surveyed))

        e, six = self.dit.modulate(time)
        layout = self.chunks.layout(chunks.poses, drawn, evidence)
        read = read_at(text, since, starts)
        streams = [self.chunks.stream(noisy, layout, six, read, recompute)]
        if written is not None:
            read = read_at(text, since, range(clean.shape[1]))
            streams.insert(0, self.clean_stream(frames, written, read))
        tokens = run(streams, evidence.attend, evidence.states, recompute)[-1]
        return self.predict(tokens, e, span)

    def beside(self, written: Sequence[int]) -> int:
        """Frames that stand beside chunks which follow so many. LociError where they are not as
        many for all."""
        counts = {self.config.memory.mixed_after(count) for count in written}
        if len(counts) > 1:
            raise LociError(
                f"chunks that follow {', '.join(map(str, sorted(set(written))))} frames have "
                f"{' and '.join(map(str, sorted(counts)))} beside them; ask for them apart"
            )
        return counts.pop()

    def write(
        self, frames: Frames, coords: Coords, evidence: Evidence, text: Cross | None = None
    ) -> None:
        """Send clean frames through the network, for what they leave in the stores."""
        run([self.clean_stream(frames, coords, text)], evidence.attend, evidence.states)

    def denoise(
        self, noisy: Tensor, layout: ChunkLayout, modulation: tuple[Tensor, Tensor],
        evidence: Evidence, text: Cross | None = None,
    ) -> Tensor:
        """The network's output for chunks (B, 1, n, C, h, w); modulation: of their times, what
        `dit.modulate` makes of (B or 1, 1)."""
        e, six = modulation
        stream = self.chunks.stream(noisy, layout, six, text)
        (tokens,) = run([stream], evidence.attend, evidence.states)
        return self.predict(tokens, e, noisy.shape[2])

    def packed(self, episode: Episode, memory: Memory | None = None) -> Evidence:
        """What the chunks of an episode meet of their past: all stores' evidence; memory: in place
        of the model's own."""
        evidence = Evidence()
        for store in self.stores(len(episode.frames.latents), memory=memory):
            evidence = store.packed(episode, evidence)
        return evidence

    def embed(self, sentences: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Embeddings (B, S, text_dim) of sentences and their lengths, as `dit.encode_text` and
        `Session.tell` take them. LociError for a model that reads none."""
        if self.config.text is None:
            raise LociError("this model reads no sentences (its `text` is None); leave them out")
        return self.config.text.encode(sentences, self.config.dit.text_dim)

    def read_text(self, text: Tensor, lengths: Sequence[int], cached: bool = True) -> Cross:
        """As `dit.encode_text`."""
        return self.dit.encode_text(text, lengths, cached)

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Latents (R, C, h, w) of pictures (R, H, W, 3) uint8, each as if it began a video."""
        return self.codec.encode(pictures[:, None])[:, 0]

    def check_extras(self, frames: Frames, begun: bool = False) -> None:
        """LociError where the memory asks for what the frames do not bring. Those of streams that
        have begun may come without all of it: nobody knows the depth of a frame that was generated.
        """
        wanted = sorted(self.config.memory.wants)
        if begun and all(getattr(frames, name) is None for name in wanted):
            return
        for name in wanted:
            if getattr(frames, name) is None:
                raise LociError(f"this memory asks for the {name} of every frame; give {name}=")

    def clean_stream(
        self, frames: Frames, coords: Coords, text: Cross | None = None
    ) -> TokenStream:
        """Frames (B, F, ...) at relative poses, with their gists, at their times."""
        tokens = self.dit.patchify(frames.latents)
        bank = self.gist_bank.to(tokens.dtype).expand(*tokens.shape[:2], -1, -1)
        rays = token_rays(self.config.camera, self.grid, len(self.gist_bank), tokens.device)
        poses = frames.poses.to(tokens.device)
        last = (self.config.dit.num_layers - 1 in {layer for layer, _ in self.states})
        return TokenStream(
            self.dit, torch.cat([tokens, bank], dim=2),
            self.positions.rotary(coords, [(poses, rays)]),
            self.dit.modulate(frames.time.to(tokens.device))[1], (1, self.tokens),
            motion=self.positions.motion(poses), text=text, kv_only=not last,
        )

    def predict(self, tokens: Tensor, e: Tensor, span: int) -> Tensor:
        """Tokens of chunks, with e (B, G, 1, D) of their times -> the network's output
        (B, G, span, C, h, w)."""
        batch, groups = len(tokens), e.shape[1]
        noisy = tokens.reshape(batch, groups, -1, tokens.shape[-1])[:, :, : span * self.tokens]
        out = self.dit.predict(
            noisy.reshape(batch, groups * span, self.tokens, -1),
            e.expand(batch, -1, -1, -1).repeat_interleave(span, dim=1), *self.latent_shape[1:],
        )
        return out.unflatten(1, (groups, span))

    def session(
        self, batch: int = 1, capacity: int | None = None, gradients: bool = False,
        kv_as: str | None = None,
    ) -> Session:
        """A fresh memory for `batch` streams; see `Session` for the rest."""
        return Session(self, batch, capacity, gradients, kv_as)
