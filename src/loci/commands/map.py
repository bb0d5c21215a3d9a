"""`loci map`: the map of a session, or one of a room, for a viewer of point clouds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loci.data.episodes import Episode, read_episode, render_episode
from loci.data.walks import FORMAT as EPISODE
from loci.errors import LociError
from loci.geometry import Camera, relative_to
from loci.geometry.depth import intrinsics_of
from loci.geometry.forms import map_of
from loci.geometry.scene_map import SceneMap, Surface, View
from loci.io.files import check_file
from loci.io.ply import write_ply
from loci.memory import Map
from loci.memory.stores import below
from loci.streaming import files
from loci.streaming.place import places

ROOMS = "rooms"
KINDS = {files.FORMAT: "a saved session", EPISODE: "a kept episode"}
SPLIT, PATH, FORM, VOXEL = "heldout", "loop180", "voxels", 0.05


@dataclass(frozen=True, eq=False)
class Known:
    """A map, relative to a first frame that stood at `reference` (4, 4) of the world. Of an
    episode, the poses (T, 4, 4) of its frames, relative as well, and the share of the pixels of
    each that the map knew before it was written."""

    map: SceneMap
    reference: Tensor
    poses: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64)[None])
    covered: list[float] = field(default_factory=list)

    @cached_property
    def surface(self) -> Surface:
        return self.map.surface()

    @cached_property
    def points(self) -> Tensor:
        """(M, 3), relative to the first frame."""
        back = torch.linalg.inv(self.map.anchor)
        return self.surface.points @ back[:3, :3].mT + back[:3, 3]

    @cached_property
    def normals(self) -> Tensor | None:
        """(M, 3) of the points, zero where none is known; None where the map keeps none."""
        facing = self.map.normals()
        return None if facing is None else facing @ torch.linalg.inv(self.map.anchor)[:3, :3].mT

    @cached_property
    def colours(self) -> Tensor:
        """(M, 3) uint8 of the points."""
        return self.surface.payload.round().clamp(0, 255).byte()


def export(
    source: str, out: str | Path, picture: str | Path | None = None, form: str | None = None,
    voxel: float | None = None, seed: int | None = None, path: str | None = None,
    split: str | None = None, report: Callable[[str], None] = print,
) -> None:
    """Write the map of a session or of an episode as points, `out`, and as a picture.

    source: a file that `Session.save` wrote; one of an `EpisodeCache`; or "rooms", for room `seed`
    of `split` along `path`. form, voxel: of a map that is built here. A session of several streams
    gives a file each, with its number in the name. Raises LociError for what is none of these, for
    options that do not belong to it, and when a file cannot be written.
    """
    for file, suffix in ((out, ".ply"), (picture, ".png")):
        if file is not None:
            if Path(file).suffix.lower() != suffix:
                raise LociError(f"cannot write {file}; name it {Path(file).with_suffix(suffix)}")
            check_file(file)
    draw = None
    if picture is not None:  # before anything is made: matplotlib may be missing
        from loci.commands.map_picture import write_picture as draw
    kind = _kind(source)
    made_here = {"--form": form, "--voxel": voxel}
    of_rooms = {"--seed": seed, "--path": path, "--split": split}
    others = {files.FORMAT: made_here | of_rooms, EPISODE: of_rooms, ROOMS: {}}[kind]
    for option, value in others.items():
        if value is not None:
            raise LociError(f"{option} is not for {KINDS[kind]}; leave it out")
    if kind == files.FORMAT:
        found = {
            stream: Known(map_of(below(place.tree, "map")), place.reference)
            for stream, place in places(source).items()
        }
    else:
        memory = Map(form=form or FORM, voxel=VOXEL if voxel is None else voxel)
        if kind == ROOMS:
            camera = Camera()
            episode = render_episode(split or SPLIT, seed or 0, path or PATH, camera)
        else:
            episode, camera = read_episode(source)
        found = {0: build(episode, camera, memory)}
    for stream, known in found.items():
        if not len(known.points):
            raise LociError(f"the map of stream {stream} of {source} is empty; nothing is written")
    for stream, known in found.items():
        ending = f"-{stream}" if len(found) > 1 else ""
        _write(known, _named(out, ending), report)
        if picture is not None and draw is not None:
            draw(known, _named(picture, ending))


def build(episode: Episode, camera: Camera, memory: Map) -> Known:
    """The map of an episode, frame by frame as a stream writes it."""
    held, matrix = memory.build(torch.device("cpu")), intrinsics_of(camera)
    absolute = torch.from_numpy(episode.poses)[None]
    poses, covered = relative_to(absolute[:, 0], absolute)[0], []
    for number, pose in enumerate(poses):
        (seen,) = held.render(pose[None], matrix, camera.height, camera.width, number)
        covered.append(float(seen.covered.float().mean()))
        depth, image = torch.from_numpy(episode.depth[number]), episode.rgb[number]
        held.write(View(depth, torch.from_numpy(image), matrix, pose, number))
    return Known(held, absolute[0, 0], poses, covered)


def _kind(source: str) -> str:
    """What a source is: "rooms", or the format of its file."""
    if source == ROOMS:
        return ROOMS
    try:
        with safe_open(source, "np") as file:
            notes = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LociError(
            f"cannot read {source}: {error}; give a saved session, a kept episode, or `{ROOMS}`"
        ) from error
    if notes.get("format") not in KINDS:
        raise LociError(f"{source} is neither {' nor '.join(KINDS.values())}; give one of them")
    return notes["format"]


def _named(file: str | Path, ending: str) -> Path:
    return Path(file).with_stem(Path(file).stem + ending)


def _write(known: Known, out: Path, report: Callable[[str], None]) -> None:
    """The points in the world, with all that is known of them."""
    surface, turn = known.surface, known.reference[:3, :3]
    place = known.points @ turn.mT + known.reference[:3, 3]
    fields = dict(zip(("x", "y", "z"), place.float().numpy().T, strict=True))
    if known.normals is not None:
        facing = (known.normals @ turn.mT).float().numpy()
        fields |= dict(zip(("nx", "ny", "nz"), facing.T, strict=True))
    fields |= dict(zip(("red", "green", "blue"), known.colours.numpy().T, strict=True))
    fields |= {"weight": surface.weight.numpy(), "last_seen": surface.last.numpy()}
    write_ply(out, fields, [
        "metres; x right, y down, z forward",
        "weight: views of a point; last_seen: number of the last frame that saw it",
    ])
    extent = " x ".join(f"{side:.2f}" for side in np.ptp(place.numpy(), axis=0))
    report(
        f"{out}: {len(place):,} points, {known.map.bytes:,} bytes in memory, {extent} m, "
        f"voxels of {100 * known.map.size:g} cm"
    )
