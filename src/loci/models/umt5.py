"""Sentences as Wan reads them: UMT5's encoder through transformers, each embedding kept on disk.

Source: Wan (arXiv 2503.20314, section 4.2) for the encoder; the clean-up of texts is that of Wan's
tokenizer but for `ftfy`, which only mends wrongly decoded characters.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loci.errors import LociError
from loci.io.extras import extra
from loci.io.files import atomic_write, cache_folder, file_digest
from loci.io.kept import keep, name_of, read_kept
from loci.models.text import TextEncoder
from loci.models.weights.layout import PIPELINE
from loci.models.weights.text_encoder import load_umt5, open_umt5

FORMAT = "loci-text-embedding-1"
CACHE = "text"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Where a download of Wan has its tokenizer.
ORIGINAL_TOKENIZER = "google/umt5-xxl"
# What Wan's own scripts guide away from (`sample_neg_prompt`).
NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


@dataclass(frozen=True, kw_only=True)
class UMT5(TextEncoder, name="umt5"):
    """Wan's text encoder. Needs the extra `loci-memory[wan]`.

    folder: a pipeline of diffusers or a download of Wan, with its tokenizer; `tokenizer`: that of
    another folder. text_len: tokens that are read at most. dtype: of the encoder's weights.

    An embedding is a function of the text, the weights and the tokenizer, and is kept under all
    three in `$LOCI_CACHE/text`: the encoder is loaded only for a text that nobody has asked for.
    It goes to the GPU where there is one, and stays loaded until `release`.
    """

    folder: str
    tokenizer: str | None = None
    text_len: int = 512
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise LociError(f"dtype '{self.dtype}' of a text encoder; use {', '.join(DTYPES)}")
        if self.text_len < 1:
            raise LociError(f"a text of {self.text_len} tokens; set text_len to 1 or more")

    def encode(self, texts: Sequence[str], width: int) -> tuple[Tensor, list[int]]:
        """Embeddings (B, S, width) fp32 on the CPU, and the lengths of the texts. LociError where
        the encoder is of another width, is missing or damaged."""
        key = {
            "weights": _digest(self.folder), "dtype": self.dtype, "text_len": self.text_len,
            "tokenizer": _digest_of_tokenizer(self._tokenizer_folder),
        }
        found = {text: self._embedding(text, key) for text in dict.fromkeys(map(cleaned, texts))}
        embeddings = [found[cleaned(text)] for text in texts]
        for each in embeddings:
            if each.shape[1] != width:
                raise LociError(
                    f"the text encoder in {self.folder} has a width of {each.shape[1]}, the model "
                    f"reads {width}; take the one that belongs to the model"
                )
        lengths = [len(each) for each in embeddings]
        padded = torch.zeros(len(texts), max(lengths, default=0), width)
        for row, each in enumerate(embeddings):
            padded[row, : len(each)] = each
        return padded, lengths

    def _embedding(self, text: str, key: dict[str, Any]) -> Tensor:
        """(S, width) of one text, which is encoded by itself, whatever else is asked for."""
        key = key | {"text": text}
        file = cache_folder(CACHE) / f"{name_of(key)}.safetensors"
        if file.exists():
            return torch.from_numpy(read_kept(file, FORMAT, key, "text embedding")["embedding"])
        tokens = _tokenizer(self._tokenizer_folder)(
            text, max_length=self.text_len, truncation=True, return_tensors="pt"
        )
        encoder = _encoder(self.folder, self.dtype)
        with torch.no_grad():
            ids, mask = (tokens[name].to(encoder.device) for name in ("input_ids",
                                                                      "attention_mask"))
            embedding = encoder(ids, attention_mask=mask).last_hidden_state[0].float().cpu()
        keep(file, FORMAT, key, {"embedding": embedding.numpy()})
        return embedding

    @property
    def _tokenizer_folder(self) -> str:
        if self.tokenizer is not None:
            return self.tokenizer
        folder = Path(self.folder)
        inside = "tokenizer" if (folder / PIPELINE).is_file() else ORIGINAL_TOKENIZER
        if not (folder / inside).is_dir():
            raise LociError(f"no tokenizer in {folder / inside}; fetch it, or name its folder")
        return str(folder / inside)


def cleaned(text: str) -> str:
    """A text as Wan's tokenizer takes it: HTML's characters written out, spaces joined."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def release() -> None:
    """Forget the encoder that is loaded."""
    _encoder.cache_clear()


@lru_cache(maxsize=1)
def _encoder(folder: str, dtype: str) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_umt5(folder, DTYPES[dtype], device)


@lru_cache(maxsize=4)
def _tokenizer(folder: str) -> Any:
    with extra("wan"):  # imported here: it takes seconds
        from transformers import AutoTokenizer
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise LociError(f"no tokenizer in {folder} ({reason}); fetch it again") from error


def _digest(folder: str) -> str:
    """Of the weights of an encoder and the sizes that it is built with."""
    stored, _, sizes = open_umt5(folder)
    stored.check()
    told = [_digest_of_file(file) for file in stored.files]
    return hashlib.sha256(json.dumps([sizes, sorted(told)]).encode()).hexdigest()


def _digest_of_tokenizer(folder: str) -> str:
    files = sorted(file for file in Path(folder).glob("*") if file.is_file())
    if not files:
        raise LociError(f"no tokenizer in {folder}; fetch it, or name its folder")
    told = [[file.name, _digest_of_file(file)] for file in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _digest_of_file(file: Path) -> str:
    """SHA-256 of a file. That of a large one is kept, and holds while its size and the time of its
    last change do: eleven gigabytes take half a minute."""
    stat = file.stat()
    key = {"file": str(file.resolve()), "size": stat.st_size, "changed": stat.st_mtime_ns}
    note = cache_folder(CACHE) / "digests" / name_of(key)
    if note.exists():
        return note.read_text()
    digest = file_digest(file)
    atomic_write(note, digest)
    return digest
