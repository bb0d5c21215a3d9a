"""Predicted depth of a clip, aligned in scale: each frame to what earlier frames saw of the place.

Models predict relative depth up to a scale and a shift of inverse depth that differ from frame to
frame (Ranftl et al., MiDaS, arXiv 1907.01341), metric depth up to an error of scale. The points of
key frames, seen from the next pose, say what its inverse depth has to be; a robust fit finds its
scale, and shift, from there. No frame looks at a later one, so that a stream gives what
the whole clip gives. Nothing is derived from how far the camera moves: turning on the spot, or
standing still, leaves the scale alone. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loci.errors import LociError
from loci.errors.arguments import check_tensor
from loci.geometry import checked_poses
from loci.geometry.depth import check_depth, check_intrinsics, project, unproject
from loci.geometry.splat import splat

# Points of a key frame, at most; so many have to meet a frame, or it keeps the scale of the last.
POINTS, ENOUGH = 4096, 32
# A frame of which less than this share is known from key frames becomes one.
KNOWN = 0.7
# Lines that are tried for a start, of either kind, and steps of the fit from the best of them.
TRIES, STEPS = 128, 20
# Residuals beyond so many robust standard deviations count nothing (Tukey's biweight).
CUT = 4.685
# Inverse depths that spread less than this, relative to their middle, say nothing about a shift.
SPREAD = 1e-3
# What is farther than so many medians of the first frame is unknown.
FAR = 100.0


@dataclass(frozen=True)
class Predicted:
    """What a model predicts: values (T, H, W), inverse depth up to scale and shift, or depth in
    metres (`metric`) up to an error of scale; 0 where it is unknown or infinitely far."""

    values: Tensor
    metric: bool


@dataclass(frozen=True)
class Aligned:
    """What a clip has shown up to a frame: points (M, 3) of each key frame and their widths (M,);
    scale and shift of the last frame; far: metres beyond which depth is unknown."""

    points: tuple[Tensor, ...]
    widths: tuple[Tensor, ...]
    scale: float
    shift: float
    far: float


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How predictions of a clip are aligned.

    median: of the first frame's depth, in the unit of the poses; of metric predictions the first
    frame is right as it is, of relative ones it is 1 if nothing is said. keep: key frames at most,
    the first of them and the last. A first frame says nothing about its own shift; unless known
    depth comes with it, that is 0.
    """

    median: float | None = None
    keep: int = 16

    def __post_init__(self) -> None:
        if self.median is not None and not 0 < self.median < float("inf"):
            raise LociError(f"a median depth of {self.median}; give metres above 0")
        if self.keep < 2:
            raise LociError(f"alignment to {self.keep} key frames; keep 2 or more")

    def align(
        self, predicted: Predicted, poses: Tensor, intrinsics: Tensor,
        state: Aligned | None = None, known: Tensor | None = None,
    ) -> tuple[Tensor, Aligned]:
        """Depth (T, H, W) fp32, in the unit of the poses, 0 where unknown; and the state from which
        the clip goes on.

        poses (T, 4, 4) camera-to-world; intrinsics (T, 3, 3) in pixels of the predictions. state:
        of the frames before, None at the start of a clip. known (H, W): depth of some pixels of the
        first frame, 0 elsewhere, to which that frame is aligned instead of to a median. Raises
        LociError for NaN, infinity and negative numbers, frames without any prediction, poses and
        intrinsics that are none or not of as many frames, and known depth in the middle of a clip.
        """
        values = check_predicted(predicted)
        count, height, width = values.shape
        exact = checked_poses(poses, (count,))
        check_tensor(intrinsics, "intrinsics", (count, 3, 3), note="one matrix a frame")
        check_intrinsics(intrinsics, height, width)
        if known is not None:
            if state is not None:
                raise LociError("known depth belongs to the first frame; give it at the start")
            check_depth(known[None])
            if known.shape != values.shape[1:]:
                raise LociError(
                    f"known depth of shape {tuple(known.shape)} for predictions of "
                    f"{height}x{width}; give one number a pixel, 0 where it is unknown"
                )
        found = []
        for value, pose, matrix in zip(values.double().cpu(), exact, intrinsics.cpu(), strict=True):
            inverse = value if not predicted.metric else torch.where(value > 0, 1 / value, 0.0)
            if state is None:
                seen, share = None, 0.0
                state = self._start(inverse, predicted.metric, known)
            else:
                seen, share = _seen(state, inverse, pose, matrix)
                state = _fitted(state, seen, predicted.metric)
            depth = _depth(inverse, state)
            found.append(depth)
            if share < KNOWN:
                state = self._kept(state, depth, pose, matrix)
        depth = torch.stack(found).float()
        assert state is not None
        return depth.to(values.device), state

    def _start(self, inverse: Tensor, metric: bool, known: Tensor | None) -> Aligned:
        """Scale and shift of a first frame."""
        there = inverse > 0
        middle = float(inverse[there].median())
        if known is not None:
            both = there & (known.cpu() > 0)
            if int(both.sum()) < 2:
                raise LociError(
                    f"depth is known and predicted in {int(both.sum())} pixels of the first frame; "
                    "give more of it"
                )
            start = Aligned((), (), 1.0, 0.0, 0.0)
            given = known.double().cpu()[both]
            fit = _fitted(start, (inverse[both], 1 / given), metric, enough=2)
            return replace(fit, far=FAR * float(given.median()))
        median = 1 / middle if metric and self.median is None else self.median or 1.0
        return Aligned((), (), 1 / (median * middle), 0.0, FAR * median)

    def _kept(self, state: Aligned, depth: Tensor, pose: Tensor, matrix: Tensor) -> Aligned:
        """The state with a further key frame; where there are too many, the second one goes."""
        step = _step(depth)
        points = unproject(depth[None], matrix[None], pose[None])[0, ::step, ::step]
        thin = depth[::step, ::step]
        known = thin > 0
        widths = thin[known] * step / float(matrix[0, 0])
        room = slice(1 if len(state.points) < self.keep else 2, None)
        return replace(
            state, points=(*state.points[:1], *state.points[room], points[known]),
            widths=(*state.widths[:1], *state.widths[room], widths),
        )


def check_predicted(predicted: Predicted) -> Tensor:
    """The values of a prediction, if they are some. LociError for other shapes, NaN and infinity,
    negative numbers, and frames without any prediction, all naming the frame."""
    values = predicted.values
    check_tensor(values, "predicted depth", ("T", "H", "W"), finite=False, note="one a pixel")
    flat = values.flatten(1)
    for bad, what in (
        (~flat.isfinite().all(1), "NaN or infinity"), ((flat < 0).any(1), "negative numbers"),
        (~(flat > 0).any(1), "nothing but zeros"),
    ):
        if bool(bad.any()):
            raise LociError(
                f"the depth model predicts {what} for frame {int(bad.nonzero()[0])}; give it "
                "pictures like those it was made for, or another model"
            )
    return values


def _depth(inverse: Tensor, state: Aligned) -> Tensor:
    """Depth (H, W) of predicted inverse depth, 0 where it is unknown or too far."""
    right = state.scale * inverse + state.shift
    near = (inverse > 0) & (right > 1 / state.far)
    return torch.where(near, 1 / right.clamp(min=1 / state.far), 0.0)


def _step(image: Tensor) -> int:
    """Every so many-th row and column of an image (H, W) makes few enough points."""
    step = 1
    while -(-image.shape[0] // step) * -(-image.shape[1] // step) > POINTS:
        step += 1
    return step


def _seen(
    state: Aligned, inverse: Tensor, pose: Tensor, matrix: Tensor
) -> tuple[tuple[Tensor, Tensor], float]:
    """What is predicted (N,) and what it should be (N,), both inverse depth, where points of key
    frames are seen; and the share of what is predicted that they cover."""
    step = _step(inverse)
    height, width = (-(-side // step) for side in inverse.shape)
    coarse = matrix.double().clone()
    coarse[:2] /= step
    points = torch.cat(state.points)
    drawn = splat(points, torch.cat(state.widths), coarse, pose, height, width)
    where, z = project(points[drawn.number[drawn.covered].unique()], matrix.double(), pose)
    # Between the centres of pixels inverse depth of a plane is linear.
    u, v = (where - 0.5).unbind(1)
    left, top = u.floor().long(), v.floor().long()
    inside = (left >= 0) & (top >= 0)
    inside &= (left + 1 < inverse.shape[1]) & (top + 1 < inverse.shape[0])
    u, v, left, top, z = (part[inside] for part in (u, v, left, top, z))
    corners = torch.stack([
        inverse[top + down, left + across] for down in (0, 1) for across in (0, 1)
    ])
    right, low = u - left, v - top
    parts = torch.stack([
        (1 - low) * (1 - right), (1 - low) * right, low * (1 - right), low * right
    ])
    there = (corners > 0).all(0)
    predicted = (corners * parts).sum(0)
    asked = inverse[::step, ::step] > 0
    share = float((drawn.covered & asked).sum()) / max(1, int(asked.sum()))
    return (predicted[there], 1 / z[there]), share


def _fitted(
    state: Aligned, seen: tuple[Tensor, Tensor], metric: bool, enough: int = ENOUGH
) -> Aligned:
    """The state with the scale, and for relative predictions the shift, that takes what is
    predicted to what it should be. Those of the last frame stay where too little is seen, and where
    far and near would change places."""
    x, y = seen
    if len(x) < enough:
        return state
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randint(len(x), (2, TRIES), generator=draw)
    # Lines through one point with the last frame's shift, and through two points.
    scales = (y[one] - state.shift) / x[one]
    shifts = torch.full_like(scales, state.shift)
    if not metric:
        apart = (x[one] - x[two]).abs() > SPREAD * x.median()
        one, two = one[apart], two[apart]
        slopes = (y[one] - y[two]) / (x[one] - x[two])
        scales = torch.cat([scales, slopes])
        shifts = torch.cat([shifts, y[one] - slopes * x[one]])
    # A root is the judge: near misses count, how wild a wild point is does not. A median would take
    # any line where most points lie on one wall ahead.
    misses = (scales[:, None] * x + shifts[:, None] - y).abs().sqrt().mean(1)
    misses[scales <= 0] = float("inf")
    best = int(misses.argmin())
    scale, shift = _refined(x, y, float(scales[best]), float(shifts[best]), state.shift, metric)
    return replace(state, scale=scale, shift=shift) if scale > 0 else state


def _refined(
    x: Tensor, y: Tensor, scale: float, shift: float, last: float, metric: bool
) -> tuple[float, float]:
    """Scale and shift with y = scale x + shift, points weighted anew at each step by how far they
    miss (Tukey's biweight; Holland and Welsch, 1977).

    The line is the one that takes mean and spread of x to those of y. Least squares in y alone
    would flatten it, and more with every frame: what earlier frames say is as noisy as this one.
    """
    tiny = torch.finfo(torch.float32).eps * float(y.median())
    for _ in range(STEPS):
        misses = (scale * x + shift - y).abs()
        width = CUT * max(1.4826 * float(misses.median()), tiny)
        weight = (1 - (misses / width).square()).clamp(min=0).square()
        weight = weight / weight.sum()
        middle, target = float((weight * x).sum()), float((weight * y).sum())
        spread = float((weight * (x - middle).square()).sum()) ** 0.5
        wanted = float((weight * (y - target).square()).sum()) ** 0.5
        if metric or spread < SPREAD * middle:
            # Of a wall ahead a scale can be told, and no shift.
            shift = last
            scale = (target - shift) / middle
        else:
            scale = wanted / spread
            shift = target - scale * middle
    return scale, shift
