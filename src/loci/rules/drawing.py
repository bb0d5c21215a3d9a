"""A rule draws itself: the mask of a short episode, as text or as SVG.

What is drawn is computed from the rule, so a page that shows it cannot disagree with the code.
"""

from __future__ import annotations

from html import escape
from itertools import groupby

import torch
from torch import Tensor

from loci.rules.rule import Coords, Kind, Rule

LETTERS = {Kind.CLEAN: "f", Kind.GIST: "g", Kind.NOISY: "n", Kind.ACTION: "a",
           Kind.CONTEXT: "c", Kind.EXECUTED: "e"}
COLOURS = {Kind.CLEAN: "#4878a8", Kind.GIST: "#d98a29", Kind.NOISY: "#7a9a50",
           Kind.ACTION: "#a05a8c", Kind.CONTEXT: "#4a9c9c", Kind.EXECUTED: "#b04a4a"}


def episode_coords(
    frames: int, tokens: int, gists: int, chunk: int = 1, actions: int = 0,
    selected: Tensor | None = None, beside: tuple[int, int] = (0, 0), executed: int = 0,
) -> Coords:
    """An episode laid out for drawing: f_0 g_0 e_0 f_1 g_1 ..., then actions, then noisy chunks.

    `tokens` L and `gists` M a frame, and `executed` actions between two frames; every chunk of
    `chunk` frames after the first frame is drawn as noise, and `actions` noisy action tokens after
    every frame. `beside`: how many context frames of a joint memory follow each chunk, and the
    tokens of one; they are numbered in their order.
    """
    parts, starts = [], range(1, frames - chunk + 1, chunk)
    for t in range(frames):
        now, nobody = torch.tensor([t]), torch.tensor([-1])
        parts.append(Coords.grid(now, (1, tokens), Kind.CLEAN, now, nobody))
        if gists:
            parts.append(Coords.grid(now, (1, gists), Kind.GIST, now, nobody))
        if executed and t < frames - 1:
            owner = torch.tensor([len(starts) + frames + t])
            parts.append(Coords.grid(now, (1, executed), Kind.EXECUTED, now, owner))
    for t in range(frames) if actions else ():
        now = torch.tensor([t])
        owner = torch.tensor([len(starts) + t])
        parts.append(Coords.grid(now, (1, actions), Kind.ACTION, now, owner))
    for group, start in enumerate(starts):
        covered = torch.arange(start, start + chunk)
        now, owner = torch.full_like(covered, start - 1), torch.full_like(covered, group)
        parts.append(Coords.grid(covered, (1, tokens), Kind.NOISY, now, owner))
        order = torch.arange(beside[0])
        now, owner = torch.full_like(order, start - 1), torch.full_like(order, group)
        parts.append(Coords.grid(order, (1, beside[1]), Kind.CONTEXT, now, owner))
    return Coords.cat(parts).with_selected(selected)


def labels(coords: Coords) -> list[str]:
    """f0, g0, n1, ... for each token."""
    return [
        f"{LETTERS[Kind(kind)]}{frame}"
        for kind, frame in zip(coords.kind.tolist(), coords.frame.tolist(), strict=True)
    ]


def text(rule: Rule, coords: Coords) -> str:
    """The mask as text: a row a query, a column a key, # where it is seen."""
    mask = rule.mask(coords, coords)
    mask = mask[0] if mask.dim() == 3 else mask
    names = labels(coords)
    width = max(map(len, names))
    head = [" " * (width + 1) + "".join(name[i : i + 1] or " " for name in names)
            for i in range(width)]
    rows = [
        f"{name:>{width}} " + "".join("#" if seen else "." for seen in row)
        for name, row in zip(names, mask.tolist(), strict=True)
    ]
    return "\n".join(head + rows) + "\n"


def svg(rule: Rule, coords: Coords, title: str = "", cell: int = 14) -> str:
    """The mask as an SVG picture: rows are queries, columns keys, colours the kind of key."""
    mask = rule.mask(coords, coords)
    mask = mask[0] if mask.dim() == 3 else mask
    names, kinds = labels(coords), [Kind(k) for k in coords.kind.tolist()]
    margin = 30
    side = cell * len(names)
    size = margin + side + 2
    title = escape(title or rule.text)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{size}" '
        f'height="{size}" font-family="monospace" font-size="{cell * 0.62:.1f}" role="img">',
        f"<title>Who sees whom: {title}</title>",
        f'<rect width="{size}" height="{size}" fill="#ffffff"/>',
        f'<rect x="{margin}" y="{margin}" width="{side}" height="{side}" fill="#eeeeee"/>',
    ]
    for i, name in enumerate(names):
        middle = margin + cell * (i + 0.5)
        out.append(f'<text x="{margin - 4}" y="{middle + 3:.1f}" text-anchor="end">{name}</text>')
        out.append(
            f'<text transform="translate({middle + 3:.1f} {margin - 4}) rotate(-90)">{name}</text>'
        )
    for q, row in enumerate(mask.tolist()):
        at = 0
        # One rectangle for neighbouring keys of a kind.
        for (seen, kind), run in groupby(zip(row, kinds, strict=True)):
            width = len(list(run))
            if seen:
                out.append(
                    f'<rect x="{margin + cell * at}" y="{margin + cell * q}" '
                    f'width="{cell * width}" height="{cell}" fill="{COLOURS[kind]}"/>'
                )
            at += width
    lines = [margin + cell * i for i in range(len(names) + 1)]
    grid = "".join(f"M{x} {margin}v{side}M{margin} {x}h{side}" for x in lines)
    out.append(f'<path d="{grid}" stroke="#ffffff"/>')
    return "\n".join([*out, "</svg>"]) + "\n"
