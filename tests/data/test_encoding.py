"""Codecs are lent to a device while data are made, and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loci.data.base import EpisodeSpec
from loci.data.encoding import encode, encoding_on, lent
from loci.data.sources import ContextAsMemoryData
from loci.models.codecs import Codec, ImageCodecConfig, PixelCodecConfig
from tiny_set import TINY


def small() -> Codec:
    torch.manual_seed(0)
    return ImageCodecConfig().build().eval()


def test_a_codec_is_lent_and_comes_back() -> None:
    codec = small()
    before = {name: part.clone() for name, part in codec.state_dict().items()}
    with encoding_on(torch.device("meta")), lent(codec):
        assert {part.device.type for part in codec.parameters()} == {"meta"}
        plain = PixelCodecConfig().build()
        with lent(plain):  # without weights it works anywhere
            assert not list(plain.parameters())
        codec.load_state_dict(before, assign=True)  # from meta no values would come back
    assert {part.device.type for part in codec.parameters()} == {"cpu"}
    with lent(codec):  # elsewhere nothing moves
        assert {part.device.type for part in codec.parameters()} == {"cpu"}


def test_latents_are_halves_without_gradients() -> None:
    codec = small()
    video = torch.randint(0, 256, (1, 2, 16, 16, 3), dtype=torch.uint8)
    found = encode(codec, video)
    assert (found.dtype, found.requires_grad) == (torch.float16, False)
    assert torch.equal(found, codec.encode(video).detach().half())


def load(folder: Path, codec: Codec) -> torch.Tensor:
    data = ContextAsMemoryData(folder=str(folder), length=9, split="all", context=2)
    found = data.load(EpisodeSpec(codec=codec, camera=TINY.camera))
    return found.rows(range(len(found))).latents


def test_what_is_kept_needs_no_device(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path))
    codec, moved = small(), []
    kept = load(tiny_set, codec)
    monkeypatch.setattr(codec, "to", lambda device: moved.append(device))
    with encoding_on(torch.device("meta")):
        assert torch.equal(load(tiny_set, codec), kept)
    assert moved == []


@pytest.mark.gpu
def test_a_gpu_encodes_the_same(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("LOCI_CACHE", str(tmp_path / device))
        codec = small()
        with encoding_on(torch.device(device)):
            found.append(load(tiny_set, codec))
        assert {part.device.type for part in codec.parameters()} == {"cpu"}
    torch.testing.assert_close(found[0].float(), found[1].float(), atol=1e-2, rtol=1e-2)
