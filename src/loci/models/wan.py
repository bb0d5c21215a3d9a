"""The Wan video transformer at any size.

Wan 2.1 and 2.2 (arXiv 2503.20314): patch embedding, blocks of self-attention, cross-attention to
text and feed-forward, each modulated by the timestep, and a modulated linear head. Parameter names
are those of the released weights. A block is written in parts, `project`, `attended` and `update`,
because what happens between them, who attends to whom and what is carried from frame to frame, is
not the model's business: an executor (`packed.py` for training, `session.py` for streams) hands in
`attend` and `recall`.

Tokens come as segments (B, F, P, D): F runs of P tokens that share a timestep. A frame of L tokens
is such a run; a timestep for each token is P = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from loci.config import Config
from loci.errors import LociError
from loci.models.camera import CameraInjection
from loci.models.rope import rotate, wan_angles
from loci.visibility import Coords, Kind


@dataclass(frozen=True, kw_only=True)
class WanConfig(Config):
    """Sizes of a Wan transformer. `text_dim` 0 leaves the cross-attention out.

    `camera` says how camera poses enter: "rotary" (angles from world rays), "inject"
    (Echo-Memory's twelve numbers, on top of Wan's own rotary positions) or "none".
    """

    in_channels: int
    out_channels: int
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    patch: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    eps: float = 1e-6
    theta: float = 1e4
    camera: str = "none"

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise LociError(
                f"dim {self.dim} does not split into {self.num_heads} heads of even width; "
                "choose dim = heads x an even number"
            )
        if self.camera not in ("none", "inject", "rotary"):
            raise LociError(f"camera is '{self.camera}'; use none, inject or rotary")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


WAN_2_1_T2V_1_3B = WanConfig(
    in_channels=16, out_channels=16, dim=1536, ffn_dim=8960, num_heads=12, num_layers=30
)
WAN_2_2_TI2V_5B = WanConfig(
    in_channels=48, out_channels=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30
)

QKV = tuple[Tensor | None, Tensor, Tensor]
Turn = tuple[Tensor, Tensor]  # cosines and sines of the rotary angles, (B or 1, S, d / 2) each
Attend = Callable[[int, list[QKV]], list[Tensor | None]]
# The tokens of all segments after the attention of a block (-1: before the first block) and their
# rotary angles in; the same tokens with what the memory adds to them out.
Recall = Callable[[int, list[Tensor], list[Turn]], list[Tensor]]


@dataclass(frozen=True)
class Segment:
    """Tokens that go through the model together.

    x (B, F, P, D); time (B, F) in 0..1; angles (B or 1, F * P, head_dim / 2) rotary angles;
    span: consecutive frames that are denoised together (1 for clean frames); motion (B, F, 12)
    relative camera poses, for camera injection only; silent: nothing is wanted of it but what it
    leaves in memory, so that the last layer stops at its keys and values.
    """

    x: Tensor
    time: Tensor
    angles: Tensor
    span: int = 1
    motion: Tensor | None = None
    silent: bool = False


@dataclass(frozen=True)
class Text:
    """Keys and values of the text for each layer, (B, N, S, d), and a bias (B, 1, 1, S).

    All padding is one key: n equal keys weigh as much as one with log n added to its score.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor


class Wan(nn.Module):
    """Wan's diffusion transformer. Latents (B, T, C, H, W) in, a prediction of that shape out."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, config.patch, config.patch)
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if config.text_dim:
            self.text_embedding = nn.Sequential(
                nn.Linear(config.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim)
            )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)

    def patchify(self, latents: Tensor) -> Tensor:
        """(B, T, C, H, W) -> tokens (B, T / pt, L, D)."""
        if self.config.patch[0] == 1:
            # One frame a token row: the convolution is a plain linear map of the patch.
            _, height, width = self.config.patch
            patches = rearrange(
                latents, "b t c (h p) (w q) -> b t (h w) (c p q)", p=height, q=width
            )
            return F.linear(patches, self.patch_embedding.weight.flatten(1),
                            self.patch_embedding.bias)
        tokens = self.patch_embedding(latents.transpose(1, 2))
        return rearrange(tokens, "b d t h w -> b t (h w) d")

    def unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Head outputs (B, F, L, patch volume * C) -> (B, T, C, height, width)."""
        frames, rows, cols = self.config.patch
        return rearrange(
            tokens, "b f (h w) (t p q c) -> b (f t) c (h p) (w q)",
            h=height // rows, w=width // cols, t=frames, p=rows, q=cols,
        )

    def modulate(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps (B, F) in 0..1 -> e (B, F, 1, D) for the head, (B, F, 6, D) for the blocks."""
        half = self.config.freq_dim // 2
        steps = torch.arange(half, dtype=torch.float64, device=time.device) / half
        # Wan counts time in thousandths; near 1000 bfloat16 is four apart: never in half precision.
        angles = 1000.0 * time.double()[..., None] * torch.exp(-math.log(1e4) * steps)
        wave = torch.cat([angles.cos(), angles.sin()], dim=-1)
        e = self.time_embedding(wave.to(self.head.modulation.dtype))
        return e.unsqueeze(-2), self.time_projection(e).unflatten(-1, (6, self.config.dim))

    def encode_text(self, text: Tensor, lengths: Sequence[int]) -> Text:
        """Keys and values of text embeddings (B, S, text_dim), computed once for a stream.

        `lengths` are the true lengths; Wan pads them with zeros to `text_len` and attends to the
        padding too. Those keys are all equal, so one of them with bias log n gives the same.
        Raises LociError for a model without text and for lengths or widths that do not fit.
        """
        if not self.config.text_dim:
            raise LociError("this model has no text input (text_dim 0); leave the text out")
        limit = min(text.shape[1], self.config.text_len)
        fit = len(lengths) == len(text) and all(0 <= length <= limit for length in lengths)
        if not fit or text.shape[2] != self.config.text_dim:
            raise LociError(
                f"text {tuple(text.shape)} of lengths {list(lengths)}; give (B, S, "
                f"{self.config.text_dim}) and a length of 0 to {limit} for each row"
            )
        longest = max(lengths)
        padded = F.pad(text[:, :longest], (0, 0, 0, 1))
        place = torch.arange(longest, device=text.device)
        true = torch.tensor(lengths, device=text.device)[:, None]
        bias = torch.zeros(len(lengths), longest + 1, dtype=text.dtype, device=text.device)
        bias[:, :longest] = bias[:, :longest].masked_fill(place >= true, -torch.inf)
        bias[:, longest] = torch.log((self.config.text_len - true[:, 0]).to(text.dtype))
        embedded = self.text_embedding(padded)
        pairs = [block.cross_attn.keys_values(embedded) for block in self.blocks]
        keys, values = zip(*pairs, strict=True)
        return Text(list(keys), list(values), bias[:, None, None])

    def forward(self, latents: Tensor, time: Tensor, text: Text | None = None) -> Tensor:
        """Wan as it was published: every token attends to every other.

        latents (B, T, C, H, W); time (B, 1) for all tokens or (B, tokens), in 0..1. The prediction
        has the shape of the latents.
        """
        tokens = self.patchify(latents)
        batch, frames, per, _ = tokens.shape
        still = torch.zeros(frames, dtype=torch.long, device=latents.device)
        _, rows, cols = self.config.patch
        shape = (latents.shape[3] // rows, latents.shape[4] // cols)
        coords = Coords.grid(torch.arange(frames, device=latents.device), shape, Kind.NOISY,
                             still, still)
        angles = wan_angles(coords, self.config.head_dim, self.config.theta)[None]
        runs = time.shape[1]  # stretches of tokens that share a timestep

        def attend(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
            return [F.scaled_dot_product_attention(*qkv[0])]

        x = tokens.reshape(batch, runs, frames * per // runs, -1)
        x = self.run([Segment(x, time, angles)], attend, text)[0]
        e = self.modulate(time)[0]
        out = self.head(x, e).reshape(batch, frames, per, -1)
        return self.unpatchify(out, *latents.shape[3:])

    def run(
        self, segments: list[Segment], attend: Attend, text: Text | None = None,
        recall: Recall | None = None,
    ) -> list[Tensor]:
        """All blocks over all segments; `attend` decides who sees whom. Tokens (B, F, P, D) out."""
        xs = [segment.x for segment in segments]
        turns = [(s.angles.cos().float(), s.angles.sin().float()) for s in segments]
        if recall is not None:
            xs = recall(-1, xs, turns)
        es = [self.modulate(segment.time)[1] for segment in segments]
        for layer, block in enumerate(self.blocks):
            if self.config.camera == "inject":
                xs = [block.camera(x, s.motion, s.span) for x, s in zip(xs, segments, strict=True)]
            last = layer == len(self.blocks) - 1
            sixes = [block.six(e) for e in es]
            qkv = [
                block.project(x, six, turn, queries=not (last and segment.silent))
                for x, six, turn, segment in zip(xs, sixes, turns, segments, strict=True)
            ]
            seen = attend(layer, qkv)
            xs = [
                x if y is None else block.attended(x, y, six, turn)
                for x, y, six, turn in zip(xs, seen, sixes, turns, strict=True)
            ]
            if recall is not None:
                xs = recall(layer, xs, turns)
            xs = [
                x if y is None else block.update(x, six, text, layer)
                for x, y, six in zip(xs, seen, sixes, strict=True)
            ]
        return xs

    def predict(self, tokens: Tensor, time: Tensor, height: int, width: int) -> Tensor:
        """The head: tokens (B, F, L, D) at timesteps (B, F) -> (B, T, C, height, width)."""
        return self.unpatchify(self.head(tokens, self.modulate(time)[0]), height, width)


class Block(nn.Module):
    """x <- x + gate attn(mod(x));  x <- x + cross(x);  x <- x + gate ffn(mod(x))."""

    def __init__(self, config: WanConfig):
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        # With cameras, values turn into the world and back into the query's view as well, so that
        # what is brought back says how far beside the query it stood (GTA, arXiv 2310.10375).
        self.relative = config.camera == "rotary"
        self.self_attn = Attention(config)
        if config.camera == "inject":
            self.camera = CameraInjection(dim, config.num_heads, config.eps)
        if config.text_dim:
            self.norm3 = nn.LayerNorm(dim, config.eps)
            self.cross_attn = Attention(config)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU("tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def six(self, e: Tensor) -> list[Tensor]:
        """Shift, scale and gate of the attention, then of the feed-forward, (B, F, 1, D) each."""
        return [m.unsqueeze(-2) for m in (self.modulation + e).unbind(-2)]

    def project(self, x: Tensor, six: list[Tensor], turn: Turn, queries: bool = True) -> QKV:
        """Rotated queries and keys, and values, each (B, N, F * P, d)."""
        shift, scale, *_ = six
        y = modulated_norm(x, shift, scale, self.eps).flatten(1, 2)
        q = rotate(self.self_attn.queries(y), *turn) if queries else None
        k, v = self.self_attn.keys_values(y)
        return q, rotate(k, *turn), rotate(v, *turn) if self.relative else v

    def attended(self, x: Tensor, seen: Tensor, six: list[Tensor], turn: Turn) -> Tensor:
        """Take in what was attended to, seen (B, N, F * P, d)."""
        if self.relative:
            cos, sin = turn
            seen = rotate(seen, cos, -sin)
        return x + self.self_attn.output(seen).view_as(x) * six[2]

    def update(self, x: Tensor, six: list[Tensor], text: Text | None, layer: int) -> Tensor:
        """Take in the text, then feed forward."""
        *_, shift, scale, gate = six
        if text is not None:
            q = self.cross_attn.queries(self.norm3(x).flatten(1, 2))
            y = F.scaled_dot_product_attention(
                q, text.keys[layer], text.values[layer], attn_mask=text.bias.to(q.dtype)
            )
            x = x + self.cross_attn.output(y).view_as(x)
        return x + self.ffn(modulated_norm(x, shift, scale, self.eps)) * gate


class Attention(nn.Module):
    """Linear maps and the RMS norm over the full width before the heads are split."""

    def __init__(self, config: WanConfig):
        super().__init__()
        dim = config.dim
        self.heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, config.eps), RMSNorm(dim, config.eps)

    def queries(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, N, S, d)."""
        return self._split(self.norm_q(self.q(x)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.norm_k(self.k(x))), self._split(self.v(x))

    def output(self, x: Tensor) -> Tensor:
        """(B, N, S, d) -> (B, S, D)."""
        return self.o(x.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class RMSNorm(nn.Module):
    """x / rms(x) * weight. Written out, because nn.RMSNorm leaves its fused path under autocast."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return x * scale.to(x.dtype) * self.weight.to(x.dtype)


class Head(nn.Module):
    """The modulated linear output layer."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch) * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, F, P, D), e (B, F, 1, D)."""
        shift, scale = (m.unsqueeze(-2) for m in (self.modulation + e).unbind(-2))
        return self.head(modulated_norm(x, shift, scale, self.eps))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, then the timestep's scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift
