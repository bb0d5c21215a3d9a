"""Ports: ways for evidence of the past to enter the video transformer beside the noise.

Three of them, each absent unless a memory asks for it, and zero at the start, so that a model with
a port begins as the same model without it:

- *channels*: further latent channels of the chunk, through a patch embedding of their own;
- *branch*: latents that go through copies of the first blocks beside the chunk. With x the chunk's
  tokens and g those of the latents, through the transformer's own patch embedding,
      g_0 = Z_0 (x + g),    g_i = Z_i copy_i(g_(i-1)),    x <- x + g_i after block i
  (SPMem, arXiv 2506.05284; every Z is a linear layer that starts at zero). Copies attend within
  their chunk alone, so that nothing of them has to be kept;
- *tokens*: further tokens, to which the chunk attends after the text, in every `every`-th block.

Frames that are written get none of it: what is cached never depends on a question.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loci.attention.cross import CrossKV
from loci.attention.dense import QKV
from loci.errors import LociError
from loci.models.trunk import Attention, Block, Sizes, TokenStream


class Branch(nn.Module):
    """Copies of the first blocks, and the zero layers around them."""

    def __init__(self, sizes: Sizes, count: int):
        super().__init__()
        if count > sizes.num_layers:
            raise LociError(f"a branch of {count} blocks beside {sizes.num_layers}; copy fewer")
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(count))
        self.zeros = nn.ModuleList(nn.Linear(sizes.dim, sizes.dim) for _ in range(count + 1))

    @torch.no_grad()
    def open(self, blocks: nn.ModuleList) -> None:
        """Begin as copies of the transformer's own blocks, and add nothing."""
        for copy, block in zip(self.blocks, blocks[: len(self.blocks)], strict=True):
            copy.load_state_dict(block.state_dict(), strict=True)
        for layer in self.zeros:
            zero(layer)

    def forward(
        self, stream: TokenStream, beside: Tensor, recompute: bool = False
    ) -> list[Tensor]:
        """What is added to the tokens of a chunk after each of the first blocks, the shape of
        stream.x (R, F, P, D) each; beside: tokens of the latents, of that shape. recompute: as for
        `mot.run`."""
        alone = replace(stream, kv_only=False, outputs=None, within=None, after=None)

        def step(block: nn.Module, g: Tensor) -> Tensor:
            return block([g], [alone], _within)[0]

        g, added = self.zeros[0](stream.x + beside), []
        for block, out in zip(self.blocks, list(self.zeros)[1:], strict=True):
            g = checkpoint(step, block, g, use_reentrant=False) if recompute else step(block, g)
            g = out(g)
            added.append(g)
        return added


def _within(qkv: list[QKV]) -> list[Tensor | None]:
    """Attention within the chunk alone."""
    return [F.scaled_dot_product_attention(*qkv[0])]


class FurtherTokens(nn.Module):
    """Cross-attention to further tokens in every `every`-th of the blocks."""

    def __init__(self, sizes: Sizes, width: int, every: int):
        super().__init__()
        self.embedding = nn.Linear(width, sizes.dim)
        self.layers = nn.ModuleDict({
            f"block{layer}": CrossAttention(sizes) for layer in range(0, sizes.num_layers, every)
        })
        self.count = sizes.num_layers

    def open(self) -> None:
        """Begin by adding nothing."""
        for layer in self.layers.values():
            zero(layer.attn.o)

    def encode(self, tokens: Tensor, present: Tensor | None) -> CrossKV:
        """Keys and values of tokens (R, S, W) in every block that reads them; present (R, S)."""
        x = self.embedding(tokens)
        empty = x.new_zeros(0)
        pairs = [
            self.layers[f"block{n}"].attn.keys_values(x) if f"block{n}" in self.layers
            else (empty, empty)
            for n in range(self.count)
        ]
        keys, values = (list(side) for side in zip(*pairs, strict=True))
        bias = x.new_zeros(len(x), 1, 1, x.shape[1])
        if present is not None:
            bias = bias.masked_fill(~present[:, None, None], torch.finfo(x.dtype).min)
        return CrossKV(keys, values, bias)

    def forward(self, x: Tensor, further: CrossKV, layer: int) -> Tensor:
        """Tokens x (B, ..., D) after block `layer`, with what they read there."""
        name = f"block{layer}"
        return x + self.layers[name](x, further, layer) if name in self.layers else x


class CrossAttention(nn.Module):
    """x -> Z attention(norm(x), further tokens); Z starts at zero."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.norm = nn.LayerNorm(sizes.dim, sizes.eps)
        self.attn = Attention(sizes)

    def forward(self, x: Tensor, further: CrossKV, layer: int) -> Tensor:
        rows = x.reshape(len(further.bias), -1, x.shape[-1])
        seen = F.scaled_dot_product_attention(
            self.attn.queries(self.norm(rows)), further.keys[layer], further.values[layer],
            attn_mask=further.bias.to(x.dtype),
        )
        # Of no token at all, nothing is read.
        there = (further.bias == 0).any(-1)
        return (self.attn.output(seen) * there.to(x.dtype)).view_as(x)


def zero(layer: nn.Module) -> None:
    """Let a linear layer begin at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


