"""What Wan's transformer is made of: blocks that tokens go through, whatever they stand for.

A block is self-attention, cross-attention to text and feed-forward, each modulated by the timestep
(Wan, arXiv 2503.20314; parameter names are those of the released weights). It is written in parts,
`project`, `attended` and `update`, because what happens between them, who attends to whom and what
is carried from frame to frame, is not the model's business (`mot.py`).

Tokens come as segments (B, F, P, D): F runs of P tokens that share a timestep. A frame of L tokens
is such a run; a timestep for each token is P = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.attention.cross import Text
from loci.attention.dense import QKV
from loci.attention.norms import RMSNorm
from loci.attention.rotary import RotaryCosSin, rotate
from loci.errors import LociError
from loci.models.camera import CameraInjection


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a trunk. The heads' common width, num_heads x head_dim, may differ from `dim`."""

    dim: int
    ffn_dim: int
    num_heads: int
    head_dim: int
    num_layers: int
    freq_dim: int
    text_dim: int
    text_len: int
    eps: float
    camera: str


@dataclass(frozen=True)
class Segment:
    """Tokens that go through the model together.

    x (B, F, P, D); time (B, F) in 0..1; angles (B or 1, F * P, head_dim / 2) rotary angles;
    span: consecutive frames that are denoised together (1 for clean frames); motion (B, F, 12)
    relative camera poses, for camera injection only; silent: nothing is wanted of it but what it
    leaves in memory, so that the last layer stops at its keys and values; heard: of each `span`
    runs the first ones, which somebody reads in the end (None: all), so that the last layer stops
    at the attention of the others; six (B or 1, F, 6, D): what the trunk makes of the times, where
    that is known already.
    """

    x: Tensor
    time: Tensor
    angles: Tensor
    span: int = 1
    motion: Tensor | None = None
    silent: bool = False
    heard: int | None = None
    six: Tensor | None = None

    def read(self, tensor: Tensor, dim: int = 1) -> Tensor:
        """The part that is heard of a tensor whose `dim` goes over runs, or over their tokens."""
        if self.heard is None:
            return tensor
        groups = self.x.shape[1] // self.span
        whole = tensor.unflatten(dim, (groups, -1))
        share = whole.shape[dim + 1] // self.span * self.heard
        return whole.narrow(dim + 1, 0, share).flatten(dim, dim + 1)


class Trunk(nn.Module):
    """Embeddings of time and text, and the blocks. `stem`: modules that come before them."""

    def __init__(self, sizes: Sizes, **stem: nn.Module):
        super().__init__()
        self.sizes = sizes
        dim = sizes.dim
        for name, module in stem.items():
            self.add_module(name, module)
        self.time_embedding = nn.Sequential(
            nn.Linear(sizes.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        if sizes.text_dim:
            self.text_embedding = nn.Sequential(
                nn.Linear(sizes.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim)
            )
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_layers))

    def modulate(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps (B, F) in 0..1 -> e (B, F, 1, D) for a head, (B, F, 6, D) for the blocks."""
        half = self.sizes.freq_dim // 2
        steps = torch.arange(half, dtype=torch.float64, device=time.device) / half
        # Wan counts time in thousandths; near 1000 bfloat16 is four apart: never in half precision.
        angles = 1000.0 * time.double()[..., None] * torch.exp(-math.log(1e4) * steps)
        wave = torch.cat([angles.cos(), angles.sin()], dim=-1)
        e = self.time_embedding(wave.to(self.time_embedding[0].weight.dtype))
        return e.unsqueeze(-2), self.time_projection(e).unflatten(-1, (6, self.sizes.dim))

    def encode_text(self, text: Tensor, lengths: Sequence[int]) -> Text:
        """Keys and values of text embeddings (B, S, text_dim), computed once for a stream.

        `lengths` are the true lengths; Wan pads them with zeros to `text_len` and attends to the
        padding too. Those n keys are all equal, so two of them give the same; see `padding_bias`.
        Raises LociError for a model without text and for lengths or widths that do not fit.
        """
        if not self.sizes.text_dim:
            raise LociError("this model has no text input (text_dim 0); leave the text out")
        limit = min(text.shape[1], self.sizes.text_len)
        fit = len(lengths) == len(text) and all(0 <= length <= limit for length in lengths)
        if not fit or text.shape[2] != self.sizes.text_dim:
            raise LociError(
                f"text {tuple(text.shape)} of lengths {list(lengths)}; give (B, S, "
                f"{self.sizes.text_dim}) and a length of 0 to {limit} for each row"
            )
        longest = max(lengths)
        padded = F.pad(text[:, :longest], (0, 0, 0, 2))
        place = torch.arange(longest, device=text.device)
        true = torch.tensor(lengths, device=text.device)[:, None]
        words = torch.zeros(len(lengths), longest, dtype=text.dtype, device=text.device)
        words = words.masked_fill(place >= true, -torch.inf)
        padding = padding_bias(self.sizes.text_len - true).to(text.dtype)
        bias = torch.cat([words, padding], dim=1)
        embedded = self.text_embedding(padded)
        pairs = [block.cross_attn.keys_values(embedded) for block in self.blocks]
        keys, values = zip(*pairs, strict=True)
        return Text(list(keys), list(values), bias[:, None, None])


def padding_bias(count: Tensor) -> Tensor:
    """Biases of two equal keys that together weigh as much as `count` (R, 1) of them, (R, 2), fp64.

    With a bias of log n one key would weigh as much, but bf16 rounds that, and the weight is off by
    up to 1.6 %. So the first is log n rounded down to what bf16 can hold, and the second makes up
    for the rest, which is too little for its own rounding to matter.
    """
    whole = count.double().log()
    near = whole.bfloat16()
    below = torch.nextafter(near, torch.full_like(near, -torch.inf))
    most = torch.where(near.double() > whole, below, near).double()
    return torch.cat([most, (count - most.exp()).clamp(min=0).log()], dim=1)


class Block(nn.Module):
    """x <- x + gate attn(mod(x));  x <- x + cross(x);  x <- x + gate ffn(mod(x))."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        dim = sizes.dim
        self.eps = sizes.eps
        # With cameras, values turn into the world and back into the query's view as well, so that
        # what is brought back says how far beside the query it stood (GTA, arXiv 2310.10375).
        self.relative = sizes.camera == "rotary"
        self.self_attn = Attention(sizes)
        if sizes.camera == "inject":
            self.camera = CameraInjection(dim, sizes.num_heads, sizes.eps)
        if sizes.text_dim:
            self.norm3 = nn.LayerNorm(dim, sizes.eps)
            self.cross_attn = Attention(sizes)
        self.ffn = nn.Sequential(
            nn.Linear(dim, sizes.ffn_dim), nn.GELU("tanh"), nn.Linear(sizes.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def six(self, e: Tensor) -> list[Tensor]:
        """Shift, scale and gate of the attention, then of the feed-forward, (B, F, 1, D) each."""
        return [m.unsqueeze(-2) for m in (self.modulation + e).unbind(-2)]

    def project(
        self, x: Tensor, six: list[Tensor], turn: RotaryCosSin, queries: bool = True
    ) -> QKV:
        """Rotated queries and keys, and values, each (B, N, F * P, d)."""
        shift, scale, *_ = six
        y = modulated_norm(x, shift, scale, self.eps).flatten(1, 2)
        q = rotate(self.self_attn.queries(y), *turn) if queries else None
        k, v = self.self_attn.keys_values(y)
        return q, rotate(k, *turn), rotate(v, *turn) if self.relative else v

    def attended(self, x: Tensor, seen: Tensor, six: list[Tensor], turn: RotaryCosSin) -> Tensor:
        """Take in what was attended to, seen (B, N, F * P, d)."""
        if self.relative:
            cos, sin = turn
            seen = rotate(seen, cos, -sin)
        return x + self.self_attn.output(seen).view_as(x) * six[2]

    def update(self, x: Tensor, six: list[Tensor], text: Text | None, layer: int) -> Tensor:
        """Take in the text, then feed forward."""
        *_, shift, scale, gate = six
        if text is not None:
            rows = x.reshape(len(text.bias), -1, x.shape[-1])
            keys, values = text.keys[layer], text.values[layer]
            if keys.shape[2] == 1:
                y = values  # whoever asks, a single key has all the weight
            else:
                q = self.cross_attn.queries(self.norm3(rows))
                y = F.scaled_dot_product_attention(
                    q, keys, values, attn_mask=text.bias.to(q.dtype)
                )
            x = (rows + self.cross_attn.output(y)).view_as(x)
        return x + self.ffn(modulated_norm(x, shift, scale, self.eps)) * gate


class Attention(nn.Module):
    """Linear maps, and the RMS norm over all heads before they are split."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        dim, inner = sizes.dim, sizes.num_heads * sizes.head_dim
        self.heads = sizes.num_heads
        self.q, self.k, self.v = (nn.Linear(dim, inner) for _ in range(3))
        self.o = nn.Linear(inner, dim)
        self.norm_q, self.norm_k = RMSNorm(inner, sizes.eps), RMSNorm(inner, sizes.eps)

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


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, then the timestep's scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift
