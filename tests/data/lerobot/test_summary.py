"""`loci data stats` of demonstrations: what the dataset says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import demonstrations as made
from loci.commands import main as cli
from loci.data.lerobot.summary import dataset_stats
from loci.errors import LociError


def test_counts_and_statistics_are_the_datasets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = made.write(tmp_path / "a", [9, 17, 12])
    found = dataset_stats(tmp_path / "a")
    assert (found["episodes"], found["frames"], found["frames_of_an_episode"]) == (3, 38, [9, 17])
    assert found["tasks"] == {"task 0": 2, "task 1": 1}
    actions = np.concatenate([episode["action"] for episode in episodes])
    np.testing.assert_allclose(found["features"]["action"]["mean"], actions.mean(0), rtol=1e-5)
    assert "timestamp" not in found["features"]
    cli.main(["data", "stats", str(tmp_path / "a")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a: lerobot, 3 episodes, 38 frames (9 to 17 an episode), 10 a second")
    (shown,) = [line.split() for line in lines if line.startswith("action[3]")]
    assert float(shown[3]) == pytest.approx(actions[:, 3].mean(), rel=1e-3)
    cli.main(["data", "stats", str(tmp_path / "a"), "--json"])
    assert json.loads(capsys.readouterr().out) == found
    with pytest.raises(LociError, match=r"meta/info\.json"):
        dataset_stats(tmp_path)
