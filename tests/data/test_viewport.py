"""What a model's camera sees of a picture that another camera took."""

from __future__ import annotations

import re

import numpy as np
import pytest

from loci.data.viewport import Viewport
from loci.errors import LociError
from loci.geometry import Camera
from loci.geometry.depth import intrinsics_of

WIDE = Camera(height=90, width=160, fov=90.0)


def test_the_same_camera_sees_the_same_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    view = Viewport.of(intrinsics_of(WIDE).numpy(), (90, 160), WIDE, "it")
    np.testing.assert_array_equal(view.show(picture, "it"), picture)
    with pytest.raises(LociError, match="it is 160x90, others are 90x160; loci data check"):
        view.show(picture.transpose(1, 0, 2), "it")


def test_a_point_lies_where_the_models_camera_would_see_it() -> None:
    """Not centred, and with pixels that are not square."""
    intrinsics = np.array([[80.0, 0, 70], [0, 60, 50], [0, 0, 1]])
    camera = Camera(height=32, width=48, fov=60.0)
    view = Viewport.of(intrinsics, (90, 160), camera, "it")
    left, top, right, bottom = view.box
    for x, y in ((0.0, 0.0), (0.3, -0.2), (-0.5, 0.3)):
        u, v = 80 * x + 70, 60 * y + 50
        wanted = (camera.focal * x + 24, camera.focal * y + 16)
        found = ((u - left) / (right - left) * 48, (v - top) / (bottom - top) * 32)
        np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize("shape", [(90, 160), (64, 64), (160, 90)])
def test_the_widest_view_that_is_named_fits(shape: tuple[int, int]) -> None:
    intrinsics = np.array([[80.0, 0, 70], [0, 60, 50], [0, 0, 1]])
    camera = Camera(height=shape[0], width=shape[1], fov=120.0)
    with pytest.raises(LociError, match=r"it shows less .* \(120 degrees") as error:
        Viewport.of(intrinsics, (90, 160), camera, "it")
    found = re.search(r"fov to ([\d.]+) or less", str(error.value))
    assert found
    widest = float(found[1])
    Viewport.of(intrinsics, (90, 160), Camera(height=shape[0], width=shape[1], fov=widest), "it")
    with pytest.raises(LociError):
        Viewport.of(
            intrinsics, (90, 160), Camera(height=shape[0], width=shape[1], fov=widest + 2), "it"
        )
