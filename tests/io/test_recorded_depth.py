"""Recorded depth comes back in metres, or with one line about what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loci.errors import LociError
from loci.io.recorded_depth import read_depth

DEPTH = np.linspace(0.5, 4.0, 11 * 5 * 7, dtype=np.float32).reshape(11, 5, 7).copy()
DEPTH[:, 0, 0] = 0


def millimetres() -> np.ndarray:
    return np.rint(DEPTH * 1000).astype(np.uint16)


def folder(place: Path, save: Callable[[Path, np.ndarray], object], frames: np.ndarray) -> Path:
    """A file a frame; 10 comes after 9 by number alone."""
    place.mkdir()
    for number, frame in enumerate(frames):
        save(place / f"depth_{number}", frame)
    (place / "notes.txt").write_text("of another kind")
    return place


def png(file: Path, frame: np.ndarray) -> None:
    Image.fromarray(frame).save(file.with_suffix(".png"))


def tiff(file: Path, frame: np.ndarray) -> None:
    Image.fromarray(frame).save(file.with_suffix(".tif"))


def npz(file: Path, frame: np.ndarray) -> None:
    np.savez(file.with_suffix(".npz"), depth=frame, other=frame)


def test_folders_of_a_file_a_frame(tmp_path: Path) -> None:
    found = read_depth(folder(tmp_path / "png", png, millimetres()), frames=11, size=(5, 7))
    assert found.dtype == np.float32
    assert np.abs(found - DEPTH).max() < 0.00051
    assert (found[:, 0, 0] == 0).all()
    fine = np.rint(DEPTH * 5000).astype(np.uint16)
    tum = read_depth(folder(tmp_path / "tum", png, fine), unit=1 / 5000)
    assert np.abs(tum - DEPTH).max() < 0.00011
    for name, save in (("npy", np.save), ("npz", npz), ("tif", tiff)):
        assert np.array_equal(read_depth(folder(tmp_path / name, save, DEPTH)), DEPTH)


def test_files_by_themselves(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", DEPTH.astype(np.float64) * 100)
    assert np.allclose(read_depth(tmp_path / "all.npy", unit="cm"), DEPTH, atol=1e-6)
    np.savez_compressed(tmp_path / "all.npz", millimetres())
    assert np.allclose(read_depth(tmp_path / "all.npz", frames=11), DEPTH, atol=6e-4)
    png(tmp_path / "one", millimetres()[3])
    assert np.allclose(read_depth(tmp_path / "one.png"), DEPTH[3:4], atol=6e-4)


def changed(at: int, value: float) -> np.ndarray:
    depth = DEPTH.copy()
    depth[at, 2, 2] = value
    return depth


EMPTY = DEPTH.copy()
EMPTY[4] = 0


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (changed(3, np.nan), "NaN or infinity in frame 3 of .*; write 0 where"),
        (changed(3, np.inf), "NaN or infinity in frame 3"),
        (changed(10, -1.0), "negative depth in frame 10"),
        (EMPTY, "in frame 4 of .* is unknown everywhere"),
        (DEPTH * 5000, r"has a median of 1.13e.04 m; give its unit"),
        (DEPTH / 5000, "has a median of 0.000451 m; give its unit"),
        (DEPTH[:, :, :, None], "of shape"),
        (np.zeros((0, 4, 4), np.float32), "of shape"),
        ((DEPTH * 50).astype(np.uint8), "holds uint8; save depth in 16 bits"),
        (DEPTH > 2, "holds bool"),
    ],
)
def test_numbers_that_are_no_depth(tmp_path: Path, frames: np.ndarray, words: str) -> None:
    np.save(tmp_path / "depth.npy", frames)
    with pytest.raises(LociError, match=words) as caught:
        read_depth(tmp_path / "depth.npy")
    assert "\n" not in str(caught.value)


def test_recordings_that_do_not_fit(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", np.save, DEPTH)
    for arguments, words in (
        ({"frames": 12}, "has depth of 11 frames, and 12 are needed"),
        ({"size": (7, 5)}, "depth of 5x7 in .*, and images of 7x5"),
        ({"unit": "inch"}, "unknown unit 'inch'.*known: cm, m, mm"),
        ({"unit": -1.0}, "steps of -1.0 m"),
    ):
        with pytest.raises(LociError, match=words):
            read_depth(place, **arguments)
    np.save(place / "depth_11.npy", DEPTH[0, :3])
    with pytest.raises(LociError, match=r"depth_11\.npy is 3x7 and depth_0\.npy 5x7"):
        read_depth(place)
    np.save(place / "depth_11.npy", DEPTH[:2])
    with pytest.raises(LociError, match=r"depth_11\.npy holds 2 frames; keep one a file"):
        read_depth(place)
    np.save(place / "depth_11.npy", millimetres()[0])
    with pytest.raises(LociError, match=r"holds uint16 and depth_0\.npy float32"):
        read_depth(place)
    png(place / "depth_11", millimetres()[0])
    with pytest.raises(LociError, match=r"mixes \.npy and \.png files"):
        read_depth(place)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LociError, match="no depth at"):
        read_depth(tmp_path / "nowhere")
    with pytest.raises(LociError, match="no depth in"):
        read_depth(tmp_path)
    for name, content, words in (
        ("a.png", b"\x89PNG\r\n", "a.png is no image that can be read"),
        ("a.npy", b"\x93NUMPY", "a.npy cannot be read"),
        ("a.npz", b"PK\x03\x04", "a.npz cannot be read"),
        ("a.exr", b"", "cannot read depth from '.exr' files"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LociError, match=words) as caught:
            read_depth(tmp_path / name)
        assert "\n" not in str(caught.value)
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    with pytest.raises(LociError, match="holds RGB, 8 bits a channel"):
        read_depth(tmp_path / "colours.png")
    np.savez(tmp_path / "two.npz", a=DEPTH, b=DEPTH)
    with pytest.raises(LociError, match=r"holds 2 arrays \(a, b\); call one 'depth'"):
        read_depth(tmp_path / "two.npz")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(LociError, match="cannot be read"):
        read_depth(tmp_path / "object.npy")
    pages = [Image.fromarray(frame) for frame in DEPTH[:2]]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(LociError, match="has 2 pages"):
        read_depth(tmp_path / "pages.tif")
