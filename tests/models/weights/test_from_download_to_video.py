"""A world model that begins as a download of Wan: transformer, VAE and text, in one folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import tiny_umt5
import wan_downloads as made
from loci.flow import Flow
from loci.geometry import Camera
from loci.memory import Hybrid
from loci.models import umt5
from loci.models.umt5 import NEGATIVE_PROMPT, UMT5
from loci.models.weights import vae
from loci.models.weights.wan import open_wan
from loci.models.world import WorldConfig
from loci.training.init_from import Init, Weights
from tiny_world import walk

pytest.importorskip("diffusers")


def test_a_download_of_wan_becomes_a_world_model_with_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It generates, guided, and its checkpoint says how it reads text and pictures."""
    monkeypatch.setenv("LOCI_CACHE", str(tmp_path / "cache"))
    umt5.release()
    folder = tiny_umt5.download(tmp_path / "wan", tiny_umt5.encoder())
    theirs = made.transformer(text_dim=tiny_umt5.WIDTH)
    inside = made.original_folder(tmp_path / "inside", theirs)
    for file in inside.iterdir():
        file.rename(folder / file.name)
    small = dataclasses.replace(
        vae.wan_vae_2_1(), base_dim=4, z_dim=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4
    )
    monkeypatch.setattr(vae, "wan_vae_2_1", lambda: small)
    codec = small.build()
    names = vae.names_to_original(small)
    tensors = {names[name]: tensor for name, tensor in codec.vae.state_dict().items()}
    torch.save(tensors, folder / "Wan2.1_VAE.pth")

    dit = open_wan(folder).config
    assert dit is not None
    model = WorldConfig(
        memory=Hybrid(anchors=1, window=2, gists_per_frame=2), dit=dit, codec=small, flow=Flow(),
        camera=Camera(height=32, width=32), chunk=2, steps=2, text=UMT5(folder=str(folder)),
    ).build()
    start = Weights(path=str(folder))
    Init(weights=start, codec=start).fill(model)
    for name, tensor in made.original_names(theirs).items():
        assert torch.equal(model.dit.state_dict()[name], tensor)
    assert all(torch.equal(model.codec.state_dict()[n], t) for n, t in codec.state_dict().items())

    model.eval().save(tmp_path / "world.safetensors")
    model = type(model).load(tmp_path / "world.safetensors")
    poses, noise = walk(1, 3), torch.randn(1, 2, *model.latent_shape)
    picture = torch.randint(256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    session = model.session().init("the red room")
    session.write(model.codec.encode(picture), poses[:, :1])
    plain = session.generate(poses[:, 1:], noise)
    guided = session.guide(5.0, NEGATIVE_PROMPT).generate(poses[:, 1:], noise)
    assert guided.isfinite().all()
    assert (guided - plain).abs().max() > 1e-3
    assert model.codec.decode(guided).shape == (1, 5, 32, 32, 3)
