"""What the rows showed: strips first frame, away, return, and videos of all rows side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loci.errors import LociError

TRUTH = "ground truth"
COLUMNS = 7
SCALE = 3
FRAMES_A_SECOND = 6
GAP = 6
HEADER = 22


@dataclass(frozen=True)
class Shown:
    """The frames of one case: of the truth and of every row, uint8 (T, H, W, 3).

    observed: frames that a row was given; out: frames of the way out; away: the frame of the way
    out that is farthest from the first.
    """

    branch: str
    case: str
    observed: int
    out: int
    away: int
    videos: dict[str, np.ndarray]


def load_shown(out: Path, branch: str, rows: Sequence[str]) -> list[Shown]:
    """The kept cases of a branch, in order. Raises LociError for a damaged file."""
    found = []
    folders = (out / "rollouts" / branch).glob("*-*")
    for folder in sorted(folders, key=lambda f: int(f.name.split("-")[0])):
        truth = _arrays(folder / "truth.npz")
        videos = {TRUTH: truth["video"]}
        for row in rows:
            if (folder / f"{row}.npz").exists():
                videos[row] = _arrays(folder / f"{row}.npz")["video"]
        counts = [int(truth[name]) for name in ("observed", "out", "away")]
        found.append(Shown(branch, str(truth["case"]), *counts, videos))
    return found


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise LociError(f"{file} is damaged ({error}); delete it and parts/, run again") from error


def strip(shown: Shown, objects: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The cells of a panel: {columns: headings, rows: [{name, cells: [{src, alt, marks}]}]}.

    objects: row -> outcomes of its objects (as in cases.json). Frames at which an object is scored
    come first, the rest is spread over the way back.
    """
    probes = next(iter(objects.values()), ())
    frames = _columns(shown, [int(o["frame"]) for o in probes])
    rows = []
    for name, video in shown.videos.items():
        cells = []
        for frame in frames:
            outcomes = [o for o in objects.get(name, ()) if o["frame"] == frame]
            cells.append(
                {
                    "src": png(video[frame]),
                    "alt": f"{name}, frame {frame} of {len(video) - 1}",
                    "given": frame < shown.observed,
                    "marks": [_mark(o, video.shape[1:3]) for o in outcomes],
                }
            )
        rows.append({"name": name, "cells": cells})
    return {"columns": [_heading(shown, frame) for frame in frames], "rows": rows}


def _columns(shown: Shown, probed: Sequence[int]) -> list[int]:
    """First frame, turning point, and frames of the return up to the last one."""
    last = len(shown.videos[TRUTH]) - 1
    turn = shown.out - 1
    if shown.observed == 1 and shown.branch.endswith("loop"):
        # Mirrored: the frames of the way out stand beside those of the way back.
        way = (0, turn // 3, 2 * turn // 3)
        return sorted({*way, turn, *(last - frame for frame in way)})
    wanted = sorted({*probed, last})
    spare = COLUMNS - 2
    if len(wanted) > spare:
        wanted = [wanted[round(i * (len(wanted) - 1) / (spare - 1))] for i in range(spare)]
    for frame in np.linspace(shown.observed + 1, last, 2 * COLUMNS).round().astype(int).tolist():
        if len(wanted) >= spare:
            break
        if all(abs(frame - other) > 1 for other in wanted):
            wanted.append(frame)
    return [0, shown.away, *sorted(wanted)]


def _heading(shown: Shown, frame: int) -> dict[str, str]:
    last = len(shown.videos[TRUTH]) - 1
    if frame == 0:
        title = "first frame"
    elif frame == shown.away:
        title = "away"
    elif frame == last:
        title = "back"
    else:
        title = "way out" if frame < shown.out else "return"
    return {"title": title, "frame": f"frame {frame}"}


def _mark(outcome: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Where the object is, in per cent of the frame, and what became of it."""
    height, width = size
    left, top, right, bottom = outcome["box"]
    right_one = bool(outcome["identity"])
    return {
        "style": f"left:{100 * left / width:.1f}%;top:{100 * top / height:.1f}%;"
        f"width:{100 * (right - left) / width:.1f}%;height:{100 * (bottom - top) / height:.1f}%",
        "right": right_one,
        "text": outcome["label"] if right_one else f"as {outcome['taken_for']}",
        "title": f"{outcome['label']} ({outcome['group']}): taken for {outcome['taken_for']}, "
        f"best fit {outcome['shift'][0]:+d}, {outcome['shift'][1]:+d} px off",
    }


def png(frame: np.ndarray) -> str:
    """A frame as a PNG data URI, at its own size: the page scales it without smoothing."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def mosaic(shown: Shown) -> np.ndarray:
    """All rows side by side, labelled, uint8 (T, H', W', 3), sides even as H.264 wants them."""
    names = list(shown.videos)
    count, height, width = shown.videos[TRUTH].shape[:3]
    across = min(len(names), 3)
    down = -(-len(names) // across)
    tile_w, tile_h = width * SCALE, height * SCALE + HEADER
    size = (
        down * (tile_h + GAP) + GAP + (down * (tile_h + GAP) + GAP) % 2,
        across * (tile_w + GAP) + GAP + (across * (tile_w + GAP) + GAP) % 2,
    )
    font = ImageFont.load_default(size=14)
    frames = np.empty((count, *size, 3), np.uint8)
    for t in range(count):
        canvas = Image.new("RGB", (size[1], size[0]), (24, 26, 30))
        draw = ImageDraw.Draw(canvas)
        for place, name in enumerate(names):
            x = GAP + (place % across) * (tile_w + GAP)
            y = GAP + (place // across) * (tile_h + GAP)
            given = name == TRUTH or t < shown.observed
            state = "" if name == TRUTH else "given" if given else "generated"
            draw.text((x + 2, y + 2), name, font=font, fill=(240, 240, 240))
            draw.text(
                (x + tile_w - 2, y + 2), state, font=font, anchor="ra",
                fill=(150, 156, 166) if given else (240, 165, 90),
            )
            tile = Image.fromarray(shown.videos[name][t])
            canvas.paste(
                tile.resize((tile_w, tile_h - HEADER), Image.Resampling.NEAREST), (x, y + HEADER)
            )
        frames[t] = np.asarray(canvas)
    return frames


def mp4(frames: np.ndarray, rate: int = FRAMES_A_SECOND) -> str:
    """Frames uint8 (T, H, W, 3), even sides, as an H.264 data URI that browsers play."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread and nothing that depends on the processor, so that the same frames give the
        # same bytes everywhere: with AVX-512, x264 does not even repeat itself.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "21", "preset": "medium", "x264-params": "cpu-independent=1"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/mp4;base64," + base64.b64encode(buffer.getvalue()).decode()
