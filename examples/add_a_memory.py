"""Add a memory mechanism: one class, one line. Run it: python examples/add_a_memory.py

The mechanism here is *strided* memory (ours): the first frame, the last one, and every n-th frame
in between, kept whole. Nothing below says how to train it, how to stream it or what to evict:
the mask, the cache's plan and the session all follow from `rule`.

With LOCI_ROWS=examples/add_a_memory.py in the environment it is a row like those that ship:
`loci train rooms-strided`, `loci study families`, `loci bench`; `pytest tests/conformance -k
strided` holds it to what every row promises.
"""

from dataclasses import dataclass

import torch

from loci.errors import LociError
from loci.memory import ROWS, Memory
from loci.memory.base import together
from loci.recipes.rooms import rooms
from loci.rules import drawing
from loci.rules.rule import FOREVER, Kind, Rule, first, key, query, recent, same_frame


@dataclass(frozen=True, kw_only=True)
class Strided(Memory, name="strided"):
    """Every `stride`-th frame for ever, and the last one."""

    stride: int = 4

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise LociError("strided memory: the stride counts frames; use 1 or more")

    def rule(self) -> Rule:
        kept = Rule(
            lambda q, k, stream: k.frame % self.stride == 0, f"every({self.stride})",
            until=lambda frame: torch.where(frame % self.stride == 0, FOREVER, -1),
        )
        itself = ~query(Kind.NOISY) & same_frame
        chosen = query(Kind.NOISY) & (first(1) | recent(1) | kept)
        return key(Kind.CLEAN) & (itself | chosen) | together


ROWS["strided"] = Strided()  # the registry line


def main() -> None:
    memory = ROWS["strided"]
    print("Who sees whom, for five frames of one token (f: clean, n: being generated):\n")
    print(drawing.text(memory.rule(), drawing.episode_coords(5, tokens=1, gists=0)))
    kept = [frame for frame in range(12) if memory.retention().expiry(Kind.CLEAN, frame) > 12]
    print(f"After 12 frames a stream keeps {kept}: {memory.growth} growth.\n")

    # Training and streaming agree, although neither was written for this mechanism.
    torch.manual_seed(0)
    model = rooms(memory).world.build().eval()
    frames = torch.randn(1, 13, *model.latent_shape)
    noise = torch.randn(1, 1, 4, *model.latent_shape)
    poses = torch.eye(4, dtype=torch.float64).repeat(1, 13, 1, 1)
    with torch.no_grad():
        packed = model(frames, noise, torch.tensor([[0.5]]), poses, starts=[9])[:, 0]
        session = model.session()
        session.write(frames[:, :9], poses[:, :9])
        streamed = session.denoise(session.read(poses[:, 9:]), noise[:, 0], 0.5)
    print(f"packed - streamed: {(packed - streamed).abs().max():.1e}")
    print(f"{session.tokens()} tokens held after 9 frames of {model.tokens}")


if __name__ == "__main__":
    main()
