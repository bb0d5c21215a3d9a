"""The Wan video transformer at any size.

Wan 2.1 and 2.2 (arXiv 2503.20314): patch embedding, blocks of self-attention, cross-attention to
text and feed-forward, each modulated by the timestep, and a modulated linear head. Parameter names
are those of the released weights. The blocks are in `trunk.py`, the way through them in `mot.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from loci.attention.cross import Cross
from loci.attention.dense import QKV
from loci.attention.full_precision import full_precision
from loci.attention.rotary import as_rotary
from loci.config import Config
from loci.errors import LociError
from loci.errors.arguments import check_tensor
from loci.flow import check_precision
from loci.memory.ports import Ports
from loci.models.mot import run
from loci.models.ports import Branch, FurtherTokens
from loci.models.rope import wan_angles
from loci.models.trunk import Sizes, TokenStream, Trunk, modulated_norm
from loci.rules.rule import Coords, Kind


@dataclass(frozen=True, kw_only=True)
class WanConfig(Config):
    """Sizes of a Wan transformer. `text_dim` 0 leaves the cross-attention out, `out_channels` 0 the
    head: such a transformer predicts nothing, and is there for what it leaves in memory.

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

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            dim=self.dim, ffn_dim=self.ffn_dim, num_heads=self.num_heads, head_dim=self.head_dim,
            num_layers=self.num_layers, freq_dim=self.freq_dim, text_dim=self.text_dim,
            text_len=self.text_len, eps=self.eps, camera=self.camera,
        )


class Wan(Trunk):
    """Wan's diffusion transformer. Latents (B, T, C, H, W) in, a prediction of that shape out.

    ports: further ways in that a memory asks for; see `models/ports.py`.
    """

    def __init__(self, config: WanConfig, ports: Ports | None = None):
        embedding = nn.Conv3d(config.in_channels, config.dim, config.patch, config.patch)
        super().__init__(config.sizes, patch_embedding=embedding)
        self.config = config
        self.head = Head(config) if config.out_channels else None
        ports = ports or Ports()
        self.channel_embedding = self.branch = self.further = None
        if ports.channels:
            self.channel_embedding = nn.Conv3d(
                ports.channels, config.dim, config.patch, config.patch, bias=False
            )
        if ports.branch:
            self.branch = Branch(config.sizes, ports.branch)
        if ports.tokens:
            self.further = FurtherTokens(config.sizes, ports.tokens, ports.every)
        self.open_ports()

    @torch.no_grad()
    def open_ports(self) -> None:
        """Let ports begin: zero, and the branch as copies of the blocks as they are now."""
        if self.channel_embedding is not None:
            self.channel_embedding.weight.zero_()
        if self.branch is not None:
            self.branch.open(self.blocks)
        if self.further is not None:
            self.further.open()

    def patchify(self, latents: Tensor, embedding: nn.Conv3d | None = None) -> Tensor:
        """(B, T, C, H, W) -> tokens (B, T / pt, L, D), by the patch embedding or another one.

        LociError for a size that patches do not divide.
        """
        embedding = self.patch_embedding if embedding is None else embedding
        frames, height, width = self.config.patch
        sizes = latents.shape[1], *latents.shape[3:]
        if any(size % patch for size, patch in zip(sizes, self.config.patch, strict=True)):
            raise LociError(
                f"latents of {sizes[0]} frames of {sizes[1]}x{sizes[2]} do not split into patches "
                f"of {frames} x {height}x{width}; crop or pad them"
            )
        if frames == 1:
            # One frame a token row: the convolution is a plain linear map of the patch.
            patches = rearrange(
                latents, "b t c (h p) (w q) -> b t (h w) (c p q)", p=height, q=width
            )
            return F.linear(patches, embedding.weight.flatten(1), embedding.bias)
        tokens = embedding(latents.transpose(1, 2))
        return rearrange(tokens, "b d t h w -> b t (h w) d")

    def unpatchify(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Head outputs (B, F, L, patch volume * C) -> (B, T, C, height, width)."""
        frames, rows, cols = self.config.patch
        return rearrange(
            tokens, "b f (h w) (t p q c) -> b (f t) c (h p) (w q)",
            h=height // rows, w=width // cols, t=frames, p=rows, q=cols,
        )

    def forward(self, latents: Tensor, time: Tensor, text: Cross | None = None) -> Tensor:
        """Wan as it was published: every token attends to every other.

        latents (B, T, C, H, W); time (B, 1) for all tokens or (B, tokens), in 0..1. The prediction
        has the shape of the latents. LociError for sizes that do not fit and for times in half
        precision, which cannot tell them apart.
        """
        sizes = ("B", "T", self.config.in_channels, "H", "W")
        check_tensor(latents, "latents", sizes, finite=False, meta=True)
        check_tensor(time, "time", ("B", "tokens"), finite=False, meta=True)
        check_precision(time)
        tokens = self.patchify(latents)
        batch, frames, per, _ = tokens.shape
        if time.shape[1] not in (1, frames * per):
            raise LociError(f"times of shape {tuple(time.shape)}; give (B, 1) or (B, "
                            f"{frames * per}), one a token")
        still = torch.zeros(frames, dtype=torch.long, device=latents.device)
        _, rows, cols = self.config.patch
        shape = (latents.shape[3] // rows, latents.shape[4] // cols)
        coords = Coords.grid(torch.arange(frames, device=latents.device), shape, Kind.NOISY,
                             still, still)
        rotary = as_rotary(wan_angles(coords, self.config.head_dim, self.config.theta)[None])
        runs = time.shape[1]  # stretches of tokens that share a timestep
        e, six = self.modulate(time)

        def attend(layer: int, qkv: list[QKV]) -> list[Tensor | None]:
            return [F.scaled_dot_product_attention(*qkv[0])]

        x = tokens.reshape(batch, runs, frames * per // runs, -1)
        stream = TokenStream(self, x, rotary, six, (frames, per), span=runs, text=text)
        out = self.outputs(run([stream], attend)[0], e).reshape(batch, frames, per, -1)
        return self.unpatchify(out, *latents.shape[3:])

    def predict(self, tokens: Tensor, e: Tensor, height: int, width: int) -> Tensor:
        """The head: tokens (B, F, L, D), with e (B, F, 1, D) of their times -> (B, T, C, height,
        width)."""
        return self.unpatchify(self.outputs(tokens, e), height, width)

    def outputs(self, tokens: Tensor, e: Tensor) -> Tensor:
        """What the head makes of tokens (B, F, L, D), e (B, F, 1, D). LociError without a head."""
        if self.head is None:
            raise LociError("this transformer predicts no frames: its out_channels are 0")
        return self.head(tokens, e)


class Head(nn.Module):
    """The modulated linear output layer, in the weights' precision also under autocast, as in the
    released code."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, math.prod(config.patch) * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, F, P, D), e (B, F, 1, D)."""
        shift, scale = (m.unsqueeze(-2) for m in (self.modulation + e).unbind(-2))
        with full_precision(x):
            x = x.to(self.head.weight.dtype)
            return self.head(modulated_norm(x, shift.to(x.dtype), scale.to(x.dtype), self.eps))
