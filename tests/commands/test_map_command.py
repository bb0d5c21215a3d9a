"""`loci map`: points that lie where the room is, of a room, a kept episode and a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from loci.commands import map as mapping
from loci.commands.map import export
from loci.data.episodes import Episode, EpisodeCache
from loci.data.walks import FORMAT
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.depth import intrinsics_of, unproject
from loci.io.kept import keep
from loci.memory import Map
from ply_file import read_ply
from tiny_world import tiny_world

SEED, PATH = 3, "left45-return"
CAMERA = Camera(height=32, width=32)
PLACE, COLOURS, NORMALS = ("x", "y", "z"), ("red", "green", "blue"), ("nx", "ny", "nz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kept episode, a session of two streams that has seen it, and what is neither."""
    folder = tmp_path_factory.mktemp("map")
    episode = EpisodeCache(folder).get("heldout", SEED, PATH, CAMERA)
    EpisodeCache(folder).file("heldout", SEED, PATH, CAMERA).rename(folder / "room.safetensors")
    model = tiny_world(Map())

    def twice(part: np.ndarray, frames: int = 5) -> Tensor:
        return torch.from_numpy(part[:frames])[None].expand(2, *[-1] * part.ndim).contiguous()

    session = model.session(2)
    session.save(folder / "new.safetensors")
    session.write(
        torch.zeros(2, 5, *model.latent_shape), twice(episode.poses), depth=twice(episode.depth),
        images=twice(episode.rgb), intrinsics=intrinsics_of(CAMERA).expand(2, 5, 3, 3),
    )
    change = torch.eye(4, dtype=torch.float64)
    change[1, 3] = 10.0
    session.reanchor(change, 1, streams=[1])
    session.save(folder / "two.safetensors")
    model.save(folder / "model.safetensors")
    kept = {"rgb": episode.rgb, "poses": episode.poses}
    keep(folder / "blind.safetensors", FORMAT, {"camera": CAMERA.to_dict()}, kept)
    (folder / "text.txt").write_text("no map")
    return folder


@pytest.fixture(scope="module")
def episode(folder: Path) -> Episode:
    found, camera = mapping.read_episode(folder / "room.safetensors")
    assert camera == CAMERA
    return found


def stacked(fields: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    return np.stack([fields[name] for name in names], axis=1).astype(np.float64)


def far_off(points: np.ndarray, episode: Episode) -> float:
    """Metres between points and the nearest of those that the episode shows, nine in ten."""
    matrix = intrinsics_of(CAMERA).expand(len(episode.rgb), 3, 3)
    seen = unproject(torch.from_numpy(episode.depth), matrix, torch.from_numpy(episode.poses))
    away = torch.cdist(torch.from_numpy(points)[::7], seen.reshape(-1, 3)[::2])
    return float(away.amin(1).quantile(0.9))


@pytest.mark.parametrize("form", ["voxels", "tsdf"])
def test_an_episode_becomes_points_where_its_room_is(
    form: str, folder: Path, episode: Episode, tmp_path: Path
) -> None:
    lines: list[str] = []
    export(str(folder / "room.safetensors"), tmp_path / "a.ply", form=form, report=lines.append)
    fields, comments = read_ply(tmp_path / "a.ply")
    points = stacked(fields, PLACE)
    assert lines[0].startswith(f"{tmp_path / 'a.ply'}: {len(points):,} points, ")
    assert lines[0].endswith("voxels of 5 cm")
    assert f" {np.ptp(points[:, 1]):.2f} x " in lines[0]
    assert far_off(points, episode) < 0.12
    # The floor of rooms is y = 0, and its points have its colour and face upwards.
    floor = points[:, 1] > -0.03
    assert floor.sum() > 50
    below = episode.rgb[0, -1].reshape(-1, 3).mean(0)
    assert np.abs(np.median(stacked(fields, COLOURS)[floor], axis=0) - below).max() < 40
    if form == "voxels":
        facing = stacked(fields, NORMALS)
        assert np.abs(np.linalg.norm(facing, axis=1) - 1)[facing.any(1)].max() < 1e-5
        assert np.median(facing[floor, 1]) < -0.95
    else:
        assert not set(NORMALS) & set(fields)
    assert fields["last_seen"].max() == len(episode.rgb) - 1
    assert fields["weight"].min() >= 1
    assert comments[0] == "metres; x right, y down, z forward"


def test_a_session_exports_each_of_its_maps_in_its_gauge(
    folder: Path, episode: Episode, tmp_path: Path
) -> None:
    export(str(folder / "two.safetensors"), tmp_path / "a.ply", tmp_path / "a.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a-0.ply", "a-0.png", "a-1.ply", "a-1.png"
    ]
    here, there = (read_ply(tmp_path / f"a-{stream}.ply")[0] for stream in (0, 1))
    assert far_off(stacked(here, PLACE), episode) < 0.15
    moved = stacked(there, PLACE) - stacked(here, PLACE)
    np.testing.assert_allclose(moved, np.tile([0.0, 10.0, 0.0], (len(moved), 1)), atol=1e-5)


def test_the_picture_shows_the_room_and_what_was_known(
    folder: Path, episode: Episode, tmp_path: Path
) -> None:
    known = mapping.build(episode, CAMERA, Map(voxel=0.1))
    assert known.covered[0] == 0
    # The way back shows what the way out has shown.
    assert np.mean(known.covered[episode.out :]) > np.mean(known.covered[1 : episode.out])
    export(str(folder / "room.safetensors"), tmp_path / "a.ply", tmp_path / "a.png", voxel=0.1)
    with Image.open(tmp_path / "a.png") as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    # The colours that most points have are in it.
    common, counts = np.unique(known.colours.numpy() // 8, axis=0, return_counts=True)
    for colour in common[counts.argsort()[-5:]]:
        assert (colours // 8 == colour).all(1).sum() > 100


def test_a_room_is_rendered_for_its_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[object, ...]] = []

    def render(split: str, seed: int, path: str, camera: Camera) -> Episode:
        asked.append((split, seed, path))
        return EpisodeCache(tmp_path / "cache").get("heldout", 0, PATH, CAMERA)

    monkeypatch.setattr(mapping, "render_episode", render)
    monkeypatch.setattr(mapping, "Camera", lambda: CAMERA)
    export("rooms", tmp_path / "a.ply")
    export("rooms", tmp_path / "b.ply", seed=4, path="explore", split="open", voxel=0.2)
    assert asked == [("heldout", 0, "loop180"), ("open", 4, "explore")]
    first, second = (read_ply(tmp_path / name)[0] for name in ("a.ply", "b.ply"))
    assert len(second["x"]) < 0.5 * len(first["x"])


@pytest.mark.parametrize(("changes", "words"), [
    ({"source": "two.safetensors", "form": "tsdf"}, "--form is not for a saved session; leave it"),
    ({"source": "room.safetensors", "seed": 0}, "--seed is not for a kept episode; leave it out"),
    ({"source": "new.safetensors"}, "knows no place; save a session whose memory has a map"),
    ({"source": "model.safetensors"}, "is neither a saved session nor a kept episode; give one"),
    ({"source": "blind.safetensors"}, "holds no depth; give an episode that a study keeps"),
    ({"source": "text.txt"}, "cannot read .*; give a saved session, a kept episode, or `rooms`"),
    ({"source": "nowhere"}, "cannot read .*; give a saved session"),
    ({"source": "room.safetensors", "voxel": 0.0}, "voxels of 0.0 m; give a width above 0"),
    ({"out": "a.xyz"}, r"cannot write .*a.xyz; name it .*a.ply"),
    ({"picture": "a.jpg"}, r"cannot write .*a.jpg; name it .*a.png"),
])
def test_what_is_no_map_is_one_line_and_no_file(
    changes: dict[str, object], words: str, folder: Path, tmp_path: Path
) -> None:
    given = {"source": "room.safetensors", "out": "a.ply", "picture": "a.png", **changes}
    places = {name: tmp_path / str(given.pop(name)) for name in ("out", "picture")}
    with pytest.raises(LociError, match=words) as error:
        export(str(folder / str(given.pop("source"))), **places, **given)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
