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

from loci.attention.cross import Text
from loci.attention.dense import QKV, AttentionFn
from loci.config import Config
from loci.errors import LociError
from loci.memory.recurrent import StateHook
from loci.models.mot import Lane, run
from loci.models.rope import wan_angles
from loci.models.trunk import Segment, Sizes, Trunk, modulated_norm
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


WAN_2_1_T2V_1_3B = WanConfig(
    in_channels=16, out_channels=16, dim=1536, ffn_dim=8960, num_heads=12, num_layers=30
)
WAN_2_2_TI2V_5B = WanConfig(
    in_channels=48, out_channels=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30
)


class Wan(Trunk):
    """Wan's diffusion transformer. Latents (B, T, C, H, W) in, a prediction of that shape out."""

    def __init__(self, config: WanConfig):
        embedding = nn.Conv3d(config.in_channels, config.dim, config.patch, config.patch)
        super().__init__(config.sizes, patch_embedding=embedding)
        self.config = config
        self.head = Head(config) if config.out_channels else None

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
        out = self.outputs(x, e).reshape(batch, frames, per, -1)
        return self.unpatchify(out, *latents.shape[3:])

    def run(
        self, segments: list[Segment], attend: AttentionFn, text: Text | None = None,
        recall: StateHook | None = None,
    ) -> list[Tensor]:
        """All blocks over all segments; `attend` decides who sees whom. Tokens (B, F, P, D) out."""
        return run([Lane(self, segment, text) for segment in segments], attend, recall)

    def predict(self, tokens: Tensor, time: Tensor, height: int, width: int) -> Tensor:
        """The head: tokens (B, F, L, D) at timesteps (B, F) -> (B, T, C, height, width)."""
        return self.unpatchify(self.outputs(tokens, self.modulate(time)[0]), height, width)

    def outputs(self, tokens: Tensor, e: Tensor) -> Tensor:
        """What the head makes of tokens (B, F, L, D), e (B, F, 1, D). LociError without a head."""
        if self.head is None:
            raise LociError("this transformer predicts no frames: its out_channels are 0")
        return self.head(tokens, e)


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
