"""What a study has made is whole, found again by its key, and never deleted for another key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loci.errors import LociError
from loci.io.json_files import read_lines
from loci.study.store import Store, key_of


def test_a_value_is_made_once_for_each_key(tmp_path: Path) -> None:
    store, made = Store(tmp_path), []

    def make(value: int) -> int:
        made.append(value)
        return value

    for place in ("costs/row.json", "parts/row.json.gz"):
        for key, value in (("a" * 16, 1), ("b" * 16, 2), ("c" * 16, 3)) * 2:
            assert store.has(place, key) == (len(made) >= value)
            assert store.value(place, key, lambda v=value: make(v)) == value
        assert made == [1, 2, 3]
        made.clear()
    names = {path.name for path in (tmp_path / "costs").iterdir()}
    assert names == {"row.json", f"row-{'b' * 16}.json", f"row-{'c' * 16}.json"}


def test_a_value_keeps_what_made_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.value("early.json", "x", lambda: 0)
    for machine, place in (("a", "one.json"), ("b", "two.json.gz"), ("c", "one.json")):
        store.made = {"device": machine}
        store.value(place, "x", lambda: 1)
    assert store.made_with("one.json", "x") == {"device": "a"}
    assert store.made_with("two.json.gz", "x") == {"device": "b"}
    assert store.made_with("early.json", "x") is store.made_with("none.json", "x") is None


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(IndexError):
        store.value("parts/row.json", "a" * 16, lambda: [][0])
    with pytest.raises(ValueError):
        store.value("parts/row.json", "a" * 16, lambda: float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"key": "x"}', "7"])
def test_a_damaged_value_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "row.json").write_text(content)
    with pytest.raises(LociError, match=r"row\.json is damaged.*delete it, it is made again"):
        Store(tmp_path).value("row.json", "x", lambda: 1)
    assert (tmp_path / "row.json").read_text() == content


def test_keys_tell_everything_apart() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert len({key_of(x) for x in ({"a": 1}, {"a": 2}, {"a": [1]}, {"a": "1"}, ["a", 1])}) == 5


def test_a_log_goes_on_and_another_keys_log_lies_beside_it(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def log(seed: int):
        return store.log("run", {"seed": seed}, lambda line: False)

    for seed in (0, 1):
        mine = log(seed)
        assert mine.lines == []
        mine.begin()
        mine.append({"episode": 3, "seed": seed})
    assert [log(seed).lines for seed in (0, 1)] == [[{"episode": 3, "seed": s}] for s in (0, 1)]
    assert log(0).folder == tmp_path / "run"
    assert log(1).folder != log(0).folder
    # What an earlier version wrote as its key is known as well, and is brought up to date.
    old = store.log("run", {"version": 2}, lambda line: line == {"seed": 0})
    assert old.lines == log(0).lines
    old.begin()
    first = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"version": 2}


def test_lines_that_were_cut_short_or_written_twice_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    assert read_lines(file) == []
    file.write_text('{"key": 1}\n{"episode": 1, "n": 0}\n{"episode": 1, "n": 1}\n{"step": 2}\n{"e')
    assert read_lines(file) == [{"key": 1}, {"episode": 1, "n": 0}, {"step": 2}]
