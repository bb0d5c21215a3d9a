"""Hashes of every recipe and of every checkpoint that ships, section by section.

`worlds`, `codecs` and `checkpoints` never change: results and weights that exist are known by them.
`runs`, `policies` and `policy_checkpoints` change where the configuration of a run or of a policy
is written otherwise on purpose.
"""

from __future__ import annotations

from typing import Any

import pytest

from golden import entry_points as loci
from golden.pins import pins


@pytest.fixture(scope="module")
def runs() -> dict[str, Any]:
    return loci.runs()


@pytest.mark.parametrize(("section", "hashed"), [
    ("runs", loci.run_hash), ("policies", loci.policy_hash), ("worlds", loci.world_hash),
    ("codecs", loci.codec_hash),
])
def test_recipes_have_their_hashes(runs: dict[str, Any], section: str, hashed: Any) -> None:
    found = {name: hashed(run) for name, run in runs.items()}
    assert any(found.values())
    with pins("hashes") as check:
        check(section, {k: v for k, v in found.items() if v is not None}, more=True)


def test_checkpoints_have_their_weights() -> None:
    found, policies = {}, {}
    for name in loci.shipped():
        noted, computed = loci.checkpoint_digests(name)
        assert noted == computed
        config = loci.checkpoint_config(name)
        found[name] = {"kind": loci.checkpoint_kind(name), "weights": computed}
        if (world := loci.checkpoint_world(config)) is None:
            found[name]["config"] = config.hash()
        else:
            found[name]["world"], policies[name] = world.hash(), config.hash()
    assert policies
    with pins("hashes") as check:
        check("checkpoints", found, more=True)
        check("policy_checkpoints", policies, more=True)
