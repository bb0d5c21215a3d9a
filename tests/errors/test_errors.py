"""Arguments of another type are one line at the public entry points, and no error of Python's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loci.errors import LociError, did_you_mean
from loci.geometry import Camera, checked_poses
from loci.io.checkpoint import save_checkpoint
from loci.io.mosaic import mosaic
from loci.io.pictures import contact_sheet, write_video
from loci.models.normalisation import Normalisation, Normaliser
from loci.worlds.rooms.room import sample_room
from loci.worlds.tabletop import Tabletop

NUMPY = "a numpy.ndarray; give a torch tensor"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: checked_poses(np.eye(4)[None, None], (1, 1)), f"poses: {NUMPY}"),
        (lambda out: checked_poses(None, (1, 1)), "poses: None; give a torch tensor"),
        (lambda out: mosaic([None], Camera()), "a camera's pictures: None; give a numpy array"),
        (lambda out: mosaic([torch.zeros(1, 4, 4, 3)], Camera()), "a torch.Tensor; give a numpy"),
        (lambda out: write_video(out / "x.mp4", None), "frames: None; give a numpy array"),
        (lambda out: contact_sheet([1, 2]), "frames: a list; give a numpy array"),
        (lambda out: save_checkpoint(out / "x", "k", {}, {"a": np.zeros(3)}), f"'a' .*: {NUMPY}"),
        (lambda out: Normaliser(Normalisation(), 2).fit(np.zeros((3, 2))), NUMPY),
        (lambda out: sample_room(0).render(None), r"poses have shape \(\)"),
        (lambda out: Tabletop().step(None), "an action of shape"),
    ],
)
def test_another_type_is_one_line(
    call: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(LociError, match=words) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_name_is_guessed_where_one_is_near() -> None:
    assert did_you_mean("hybird", ["tower", "hybrid"]) == (
        "; did you mean 'hybrid'? (known: hybrid, tower)"
    )
    assert did_you_mean("x", ["tower"]) == " (known: tower)"
