"""Walks that training learns from: killed renderings go on, and what is told holds from where the
way out ends."""

import re

import numpy as np
import pytest

from loci.data import walks
from loci.data.walks import render_walks, sentence_of, take_walk
from loci.errors import LociError
from loci.geometry import Camera

SMALL = Camera(height=16, width=16)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, part in a.items():
        np.testing.assert_array_equal(part, b[name])
        assert part.dtype == b[name].dtype


def test_training_sets_resume_to_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(walks, "SHARD", 2)
    seeds = range(5)
    made = render_walks(seeds, 9, SMALL, tmp_path, workers=1)
    assert {name: part.shape for name, part in made.items()} == {
        "rgb": (5, 9, 16, 16, 3), "poses": (5, 9, 4, 4),
    }
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    files[1].unlink()
    again = render_walks(seeds, 9, SMALL, tmp_path, workers=1)
    bare = render_walks(seeds, 9, SMALL, workers=1)
    for other in (again, bare):
        same(other, made)


def test_what_is_rendered_first_is_said_once_with_time_size_and_place(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(walks, "SHARD", 2)
    with caplog.at_level("INFO", logger="loci"):
        render_walks(range(4), 9, SMALL, tmp_path, workers=1)
        render_walks(range(4), 9, SMALL, tmp_path, workers=1)
        next(tmp_path.iterdir()).unlink()
        render_walks(range(4), 9, SMALL, tmp_path, workers=1)
        render_walks(range(4), 9, SMALL, workers=1)  # nothing is kept
    whole, part = [m for m in caplog.messages if "first" in m]
    words = r"rendering 4 training episodes first: about \d+ s; 0 MB are kept in (.*) \(LOCI_CACHE"
    assert re.match(words, whole)[1] == str(tmp_path)
    assert part.startswith("rendering 2 training episodes first")
    (tmp_path / "file").write_text("")
    with pytest.raises(LociError, match="file is a file; choose another folder"):
        render_walks(range(4), 9, SMALL, tmp_path / "file", workers=1)


def test_two_workers_render_the_same(monkeypatch):
    monkeypatch.setattr(walks, "SHARD", 2)
    one = render_walks(range(4), 5, SMALL, workers=1)
    two = render_walks(range(4), 5, SMALL, workers=2)
    same(one, two)


def test_walks_past_events_tell_some_of_them():
    """Kept and read back: what is told is told at the end of the way out, of which the pictures
    show nothing, and holds for what is seen from then on."""
    made = render_walks(range(12), 65, world="events")
    sentences = [sentence_of(row) for row in made["sentence"]]
    told = [seed for seed, sentence in enumerate(sentences) if sentence]
    assert 2 <= len(told) <= 8
    for seed in told:
        out = int(made["since"][seed])
        walk = take_walk("events", seed, 65, Camera())
        assert (walk.sentence, walk.since) == (sentences[seed], out)
        assert out % 4 == 1
        before = walk.scenery.change.before.render(walk.poses, Camera()).rgb
        different = (made["rgb"][seed] != before).any(axis=(1, 2, 3))
        assert not different[:out].any()
        assert different[out:].any()


def test_walks_that_cannot_be(tmp_path):
    with pytest.raises(LociError, match="1 \\+ 4 n"):
        render_walks(range(3), 8)
    with pytest.raises(LociError, match="no seeds"):
        render_walks([], 9)


def test_sentences_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(walks, "SHARD", 2)
    made = render_walks(range(4), 33, SMALL, tmp_path, workers=1, world="events")
    same(render_walks(range(4), 33, SMALL, tmp_path, workers=1, world="events"), made)
