"""Pictures with words below them, and many pictures in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loci.errors import LociError
from loci.io.extras import extra

with extra("data"):
    from PIL import Image, ImageDraw, ImageFont

BAND, PAPER, INK, SOFT = 20, (24, 26, 30), (235, 235, 235), (150, 156, 166)
Color = tuple[int, int, int]
# Left, right and their colours: a line of a caption.
Words = tuple[str, str, Color, Color]


def captioned(frame: np.ndarray, lines: Sequence[Words], magnify: int = 1) -> np.ndarray:
    """A picture (H, W, 3) uint8, enlarged without smoothing, with lines of words below it."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise LociError(f"a picture is {frame.dtype} {frame.shape}; give uint8 (H, W, 3)")
    height, width = magnify * frame.shape[0], magnify * frame.shape[1]
    canvas = Image.new("RGB", (width, height + BAND * len(lines)), PAPER)
    canvas.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for number, (left, right, one, other) in enumerate(lines):
        y = height + BAND * number + 2
        draw.text((5, y), left, font=font, fill=one)
        draw.text((width - 5, y), right, font=font, fill=other, anchor="ra")
    return np.asarray(canvas)


def tiled(pictures: Sequence[np.ndarray], across: int = 3, gap: int = 6) -> np.ndarray:
    """Pictures of one size in rows of `across`, with even sides, as videos want them."""
    height, width = pictures[0].shape[:2]
    across = min(across, len(pictures))
    down = -(-len(pictures) // across)
    high, wide = down * (height + gap) + gap, across * (width + gap) + gap
    canvas = np.full((high + high % 2, wide + wide % 2, 3), PAPER[0], np.uint8)
    for number, picture in enumerate(pictures):
        y = gap + number // across * (height + gap)
        x = gap + number % across * (width + gap)
        canvas[y : y + height, x : x + width] = picture
    return canvas
