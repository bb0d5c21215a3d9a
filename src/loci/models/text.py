"""Instructions as the tokens that a model's cross-attention reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from loci.config import Config


@dataclass(frozen=True, kw_only=True)
class TextEncoder(Config, family=True):
    """Turns texts into embeddings. It travels with the checkpoint, so that a policy reads the same
    text the same way wherever it runs."""

    def encode(self, texts: Sequence[str], width: int) -> tuple[Tensor, list[int]]:
        """Embeddings (B, S, width), filled up with zeros, and how many of the S are each text's."""
        raise NotImplementedError(f"{type(self).__name__} must encode texts: define encode()")


@dataclass(frozen=True, kw_only=True)
class HashedWords(TextEncoder, name="hashed-words"):
    """Every word, and every pair of neighbours, is a vector of random signs that its hash decides
    (feature hashing; Weinberger et al., arXiv 0902.2206).

    It tells instructions apart, and those that share words share tokens. It knows nothing of
    language: a synonym is a stranger. It needs no weights and no vocabulary; what is learnt about
    the tokens is the model's `text_embedding`.
    """

    def encode(self, texts: Sequence[str], width: int) -> tuple[Tensor, list[int]]:
        tokens = [_tokens(text) for text in texts]
        lengths = [len(each) for each in tokens]
        embeddings = torch.zeros(len(texts), max(lengths, default=0), width)
        for row, each in enumerate(tokens):
            for place, token in enumerate(each):
                embeddings[row, place] = _signs(token, width)
        return embeddings, lengths


def _tokens(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


@lru_cache(maxsize=4096)
def _signs(token: str, width: int) -> Tensor:
    found = hashlib.shake_256(token.encode()).digest(-(-width // 8))
    bits = [(byte >> bit) & 1 for byte in found for bit in range(8)][:width]
    return 2.0 * torch.tensor(bits, dtype=torch.float32) - 1.0
