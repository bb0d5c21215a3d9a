"""The study: worlds of known ability get the scores they deserve, and a killed study goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fake_worlds import (
    FakeSession,
    FakeWorld,
    fake_entry,
    grey_wall,
    last_view,
    nearest_view,
    pure_noise,
)
from loci.commands.show import console_table
from loci.data.cases import make_cases
from loci.data.episodes import EpisodeCache
from loci.data.truth import Truth, prepare
from loci.errors import LociError
from loci.geometry import Camera
from loci.memory import ROWS
from loci.recipes.registry import REVISIT, find_recipe
from loci.report.pictures import Shown, load_shown
from loci.study import run as engine
from loci.study.entry import Entry
from loci.study.rooms import suite as suites
from loci.study.rooms.baselines import baseline, mean_image
from loci.study.rooms.branches import BRANCHES
from loci.study.rooms.results import rankings, table
from loci.study.rooms.rollouts import MEMORIES, rollout
from loci.study.rooms.suite import Rooms
from loci.study.run import run, write
from loci.study.store import Store
from loci.study.studies import STUDIES, StudyOptions, plan_study
from loci.worlds.rooms.courses import CIRCLE, LOOP180, LOOP360
from tiny_world import tiny_world

RESULTS = Path(__file__).parents[2] / "results"
CASES = 3
BRANCHES_RUN = ("recall", "causal", "loop")


def entries() -> list[Entry]:
    return [
        fake_entry("none", last_view), fake_entry("all-views", nearest_view),
        fake_entry("noise", pure_noise),
    ]


def evaluate(rows: list[Entry], out: Path, cases: int, seed: int, branches=BRANCHES_RUN) -> dict:
    """What a study of these rows writes."""
    return write(run(Rooms("ground", cases, seed, rows, branches), Store(out)), out)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("study")
    return out, evaluate(entries(), out, CASES, 0)


@pytest.fixture(scope="module")
def truths(tmp_path_factory: pytest.TempPathFactory) -> list[Truth]:
    cache = EpisodeCache(tmp_path_factory.mktemp("episodes"))
    return [prepare(c, cache, Camera()) for c in make_cases("heldout", (LOOP180, CIRCLE), 3, 0)]


def test_rankings_say_whether_branches_agree() -> None:
    def rows(recall, loop, replay):
        return {
            str(n): {"recall": {"identity_later": {"mean": a}}, "loop": {"pair_psnr": {"mean": b}},
                     "replay": {"psnr": {"mean": c}}}
            for n, (a, b, c) in enumerate(zip(recall, loop, replay, strict=True))
        }

    found = rankings(rows([0.1, 0.5, 0.9, 0.7], [20, 25, 30, 28], [9, 9, 9, 9]), list("0123"))
    assert found == {"recall / loop": 1.0}  # where all are equal there is no ranking
    found = rankings(rows([0.1, 0.5, 0.9, 0.7], [30, 25, 20, 28], [1, 2, 4, 3]), list("0123"))
    # 1 - 6 sum d^2 / n (n^2 - 1), by hand.
    assert found == {"replay / recall": 1.0, "replay / loop": -0.8, "recall / loop": -0.8}
    assert rankings(rows([0.1, 0.5], [1, 2], [1, 2]), ["0", "1"]) == {}
    some = rows([0.1, 0.5, 0.9], [1, 2, 3], [1, 2, 3])
    del some["1"]["loop"]
    assert rankings(some, list("012")) == {"replay / recall": 1.0}


def get(results: dict, row: str, branch: str, metric: str) -> dict:
    return results["rows"][row][branch][metric]


def without_wall(results: dict) -> dict:
    protocol = {k: v for k, v in results["protocol"].items() if k != "wall"}
    return results | {"protocol": protocol}


def test_memory_gets_the_ceiling_and_noise_gets_the_floor(done) -> None:
    _, results = done
    assert get(results, "all-views", "recall", "identity_later")["mean"] == 1.0
    assert get(results, "all-views", "recall", "layout_later")["mean"] == 1.0
    assert get(results, "all-views", "recall", "psnr_seen")["mean"] == 60.0
    assert get(results, "ground-truth", "recall", "identity_first")["mean"] == 1.0
    assert get(results, "codec", "recall", "psnr_seen")["mean"] == 60.0
    for row in ("none", "noise", "mean-image"):
        assert get(results, row, "recall", "identity_later")["mean"] <= 0.4
        assert get(results, row, "recall", "psnr_seen")["mean"] < 20
    assert results["gains"]["all-views"]["recall"]["psnr_seen"]["lo"] > 20


def test_true_memory_helps_and_another_rooms_does_not(done) -> None:
    _, results = done
    for memory, floor, ceiling in (
        ("true", 1.0, 1.0), ("empty", 0.0, 0.4), ("shuffled", 0.0, 0.9), ("wrong", 0.0, 0.4)
    ):
        score = get(results, "all-views", "causal", f"identity_later_{memory}")
        assert floor <= score["mean"] <= ceiling
    for other in ("empty", "wrong"):
        gain = get(results, "all-views", "causal", f"gain_psnr_seen_over_{other}")
        assert gain["lo"] > 20
        assert get(results, "none", "causal", f"gain_psnr_seen_over_{other}")["mean"] == 0.0
    # With true memory it is the recall branch again.
    assert get(results, "noise", "causal", "psnr_seen_true") == get(
        results, "noise", "recall", "psnr_seen"
    )


def test_still_pictures_are_consistent_and_found_out(done) -> None:
    _, results = done
    assert get(results, "none", "loop", "pair_psnr")["mean"] == 60.0
    assert get(results, "none", "loop", "pair_margin")["mean"] == 0.0
    assert get(results, "none", "loop", "movement")["mean"] == 0.0
    assert get(results, "ground-truth", "loop", "pair_margin")["lo"] > 10
    assert get(results, "noise", "loop", "pair_psnr")["mean"] < 10


def test_results_carry_their_protocol(done) -> None:
    out, results = done
    assert json.loads((out / "results.json").read_text()) == results
    protocol = results["protocol"]
    assert protocol["rows"]["none"]["config"] == "none--------"
    assert protocol["cases"]["recall"] == protocol["cases"]["causal"]
    assert len(set(protocol["cases"]["recall"])) == CASES
    for key in ("commit", "dtype", "device", "threads", "seed", "chunk", "steps", "command"):
        assert key in protocol
    assert protocol["wall"]["seconds"] > 0
    assert results["cost"]["none"] == {
        "frames": 40, "tokens": 640, "bytes": 2560, "full_history_tokens": 640,
        "bytes_at_400": 25600, "tokens_at_400": 6400, "tokens_at_6400": 102400,
    }
    assert list(results["rows"]) == [
        "mean-image", "first-frame", "none", "all-views", "noise", "codec", "ground-truth",
    ]
    for branches in results["rows"].values():
        for metrics in branches.values():
            for score in metrics.values():
                assert set(score) == {"mean", "lo", "hi", "n"}
                assert score["lo"] - 1e-9 <= score["mean"] <= score["hi"] + 1e-9


def test_anybody_can_recompute_the_means_from_the_cases(done) -> None:
    out, results = done
    cases = json.loads((out / "cases.json").read_text())
    pairs = [c["metrics"]["identity_later"] for c in cases["recall"]["noise"].values()]
    score = get(results, "noise", "recall", "identity_later")
    assert score["n"] == sum(n for _, n in pairs)
    assert score["mean"] == sum(t for t, _ in pairs) / score["n"]
    objects = [o for c in cases["recall"]["noise"].values() for o in c["objects"]]
    assert sum(o["identity"] for o in objects if o["group"] == "later") == sum(t for t, _ in pairs)


def test_the_same_study_twice_gives_the_same_numbers(done, tmp_path: Path) -> None:
    out, results = done
    shutil.copytree(out / "episodes", tmp_path / "episodes")
    again = evaluate(entries(), tmp_path, CASES, 0)
    assert without_wall(again) == without_wall(results)
    assert (tmp_path / "cases.json").read_bytes() == (out / "cases.json").read_bytes()
    assert again["protocol"]["cases"] != evaluate(
        entries()[:1], tmp_path / "other", 1, 1, ("replay",)
    )["protocol"]["cases"]


def test_a_killed_study_goes_on_to_the_same_result(done, tmp_path: Path) -> None:
    out, results = done
    shutil.copytree(out / "episodes", tmp_path / "episodes")

    class Killed(Exception):
        pass

    calls = 0

    def dies(*arguments):
        nonlocal calls
        calls += 1
        if calls > 20:
            raise Killed
        return pure_noise(*arguments)

    rows = [*entries()[:2], fake_entry("noise", dies)]
    with pytest.raises(Killed):
        evaluate(rows, tmp_path, CASES, 0)
    assert not (tmp_path / "results.json").exists()
    finished = sorted(p.name for p in (tmp_path / "parts").iterdir())
    rows_done = ("all-views", "first-frame", "mean-image", "none")
    assert finished == [f"recall.{row}.json.gz" for row in rows_done]

    def never(*arguments):
        raise AssertionError("a finished part was made again")

    # What is finished is not touched, unless the checkpoint is another one.
    resumed = evaluate(entries(), tmp_path, CASES, 0)
    assert without_wall(resumed) == without_wall(results)
    made_again = evaluate([fake_entry(e.name, never) for e in entries()], tmp_path, CASES, 0)
    assert without_wall(made_again) == without_wall(results)
    with pytest.raises(AssertionError, match="again"):
        evaluate([fake_entry("all-views", never, "1" * 64)], tmp_path, CASES, 0, ("loop",))


def test_a_row_whose_weights_are_gone_keeps_what_it_scored(done, tmp_path: Path) -> None:
    """On a branch that came later it has no cell; all others go on."""
    out, results = done
    for name in ("episodes", "parts", "cost"):
        shutil.copytree(out / name, tmp_path / name)
    gone = [replace(entry, load=None) if entry.name == "noise" else entry for entry in entries()]
    suite = Rooms("ground", CASES, 0, branches=("recall", "open-recall"))
    suite.admit({entry.name: entry for entry in gone}, Store(tmp_path))
    rows = write(run(suite, Store(tmp_path)), tmp_path)["rows"]
    assert rows["noise"].keys() == {"recall"}
    assert rows["none"].keys() == rows["all-views"].keys() == {"recall", "open-recall"}
    assert rows["noise"]["recall"] == results["rows"]["noise"]["recall"]
    # Without any score it is refused: there is nothing to show.
    suite = Rooms("ground", CASES, 0, branches=("open-recall",))
    suite.admit({entry.name: entry for entry in gone}, Store(tmp_path / "other"))
    with pytest.raises(LociError, match="weights are gone; delete"):
        run(suite, Store(tmp_path / "other"))


def test_what_was_made_for_another_key_stays(done, tmp_path: Path) -> None:
    """Other weights of a row are scored beside those that were there, which are found again."""
    out, _ = done
    shutil.copytree(out, tmp_path / "copy")
    part = tmp_path / "copy" / "parts" / "loop.none.json.gz"
    before = part.read_bytes()
    other = [fake_entry("none", grey_wall, "1" * 64)]
    for _ in range(2):
        evaluate(other, tmp_path / "copy", CASES, 0, ("loop",))
        assert part.read_bytes() == before
        assert len(list(part.parent.glob("loop.none*.json.gz"))) == 2
        other = [fake_entry("none", None, "1" * 64)]  # it could not be played


def test_frames_of_another_seed_are_not_shown(done, tmp_path: Path) -> None:
    out, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)

    def shown() -> list[Shown]:
        return [s for s in load_shown(copy, "recall", ["none"]) if "/loop180/" in s.case]

    (before,) = shown()
    evaluate([fake_entry("none", grey_wall)], copy, CASES, 1, ("recall",))
    assert len({s.case for s in shown()}) == 2
    (again,) = (s for s in shown() if s.case == before.case)
    assert np.array_equal(again.videos["none"][20], before.videos["none"][20])


def test_truth_is_kept_once_and_costs_are_measured_once(
    done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = done
    shutil.copytree(out / "episodes", tmp_path / "episodes")
    written: list[str] = []
    plain = suites.atomic_write

    def watched(path: Path, content: object) -> None:
        written.append(path.name)
        plain(path, content)

    monkeypatch.setattr(suites, "atomic_write", watched)
    evaluate(entries()[:2], tmp_path, CASES, 0)
    # Three shown cases of two branches.
    assert written.count("truth.npz") == 2 * CASES
    monkeypatch.setattr(suites, "hold", None)
    again = evaluate(entries()[:2], tmp_path, CASES, 0)
    assert again["cost"]["none"] == results["cost"]["none"]
    assert set(again["protocol"]["wall"]["milliseconds_per_chunk"]) == {"none", "all-views"}


def test_results_say_what_each_row_was_played_with(
    done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is added on another machine does not pass for one of the first."""
    out, _ = done
    shutil.copytree(out / "episodes", tmp_path / "episodes")
    branches = ("replay", "recall")
    monkeypatch.setattr(engine, "made_with", lambda *_: {"device": "first"})
    evaluate(entries()[:1], tmp_path, 1, 0, branches)
    monkeypatch.setattr(engine, "made_with", lambda *_: {"device": "second"})
    protocol = evaluate(entries()[:2], tmp_path, 1, 0, branches)["protocol"]
    assert protocol["device"] == "second"
    assert protocol["played_with"] == {
        "none": [{"device": "first"}], "all-views": [{"device": "second"}],
    }


def test_a_damaged_part_is_named(done, tmp_path: Path) -> None:
    out, _ = done
    shutil.copytree(out, tmp_path / "copy")
    part = tmp_path / "copy" / "parts" / "loop.none.json.gz"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(LociError, match=r"loop\.none\.json\.gz is damaged.*delete"):
        evaluate(entries(), tmp_path / "copy", CASES, 0)


def test_noise_belongs_to_the_case_whatever_the_batch(truths: list[Truth]) -> None:
    world = FakeWorld(pure_noise)
    together = rollout(world, truths, 3)
    for truth, video in zip(truths, together, strict=True):
        assert (rollout(world, [truth], 3)[0] == video).all()
        assert (video[: truth.observed] == truth.rgb[: truth.observed]).all()
    assert (rollout(world, truths, 4)[0] != together[0]).any()
    # Emptying the memory must not change the noise.
    assert (rollout(world, truths, 3, "empty")[0] == together[0]).all()


def test_what_is_written_with_each_memory(truths: list[Truth], monkeypatch) -> None:
    truth, written = truths[0], []
    original = FakeSession.write

    def write(self, latents, poses, gauge=0):
        written.append((latents, poses))
        original(self, latents, poses)

    monkeypatch.setattr(FakeSession, "write", write)
    world = FakeWorld(grey_wall)
    first = {}
    for memory in MEMORIES:
        written.clear()
        rollout(world, [truth], 0, memory)
        first[memory] = (world.codec.decode(written[0][0])[0].numpy(), written[0][1][0].numpy())
        # Every finished chunk is committed, at its own poses.
        assert [len(p[0]) for _, p in written[1:]] == [4] * ((len(truth.rgb) - truth.observed) // 4)
        assert (torch.cat([p for _, p in written[1:]], 1)[0].numpy() == truth.poses[17:]).all()
    assert (first["true"][0] == truth.rgb[:17]).all()
    assert (first["empty"][0] == truth.rgb[16:17]).all()
    assert (first["empty"][1] == truth.poses[16:17]).all()
    wrong, poses = first["wrong"]
    assert (poses == truth.poses[:17]).all()
    assert (wrong[-1] == truth.rgb[16]).all()
    assert (np.abs(wrong[:-1].astype(int) - truth.rgb[:16]).mean(axis=(1, 2, 3)) > 5).all()
    mixed, poses = first["shuffled"]
    assert (poses == truth.poses[:17]).all()
    assert (mixed[-1] == truth.rgb[16]).all()
    assert sorted(f.tobytes() for f in mixed) == sorted(f.tobytes() for f in truth.rgb[:17])
    assert (mixed[:-1] != truth.rgb[:16]).any(axis=(1, 2, 3)).sum() > 8
    with pytest.raises(LociError, match="did you mean 'wrong'"):
        rollout(world, [truth], 0, "wrongg")


def test_baselines_say_what_they_are(truths: list[Truth]) -> None:
    mean = mean_image(Camera())
    for name, expected in (("mean-image", mean), ("first-frame", truths[0].rgb[0])):
        video = baseline(name, truths, Camera())[0]
        assert (video[:17] == truths[0].rgb[:17]).all()
        assert (video[17:] == expected).all()
    with pytest.raises(LociError, match="did you mean 'mean-image'"):
        baseline("mean-imag", truths, Camera())
    with pytest.raises(LociError, match="codec"):
        baseline("codec", truths, Camera())


@pytest.mark.parametrize("name", ["none", "context-5", "hybrid"])
def test_the_real_session_takes_every_branch(name: str, tmp_path: Path) -> None:
    model = tiny_world(ROWS[name], chunk=4)
    note = {"config": model.config.hash(), "checkpoint": "0" * 64, "parameters": 1}
    row = Entry(name, model.config, note, load=lambda: model)
    results = evaluate([row], tmp_path, 1, 0, ("replay", "recall"))
    assert get(results, name, "replay", "psnr")["n"] == 1
    assert results["cost"][name]["tokens"] > 0
    assert get(results, name, "recall", "psnr_seen")["mean"] < 60


def test_rows_must_agree_on_everything_but_memory(tmp_path: Path) -> None:
    other = fake_entry("b", last_view)
    other.config.steps = 3
    with pytest.raises(LociError, match="differ in steps"):
        Rooms("ground", 1, 0, [fake_entry("a", last_view), other])


def test_every_branch_has_cases_of_its_split() -> None:
    for branch in BRANCHES.values():
        assert {c.split for c in branch.cases(6, 0)} == {branch.split}
    assert BRANCHES["recall"].cases(6, 0)[1].course == LOOP360


def test_rows_with_the_return_loss_differ_in_nothing_else() -> None:
    suite = Rooms("returns", rows=list(STUDIES["returns"].rows()))
    known = {variant.name: find_recipe(variant.recipe)() for variant in suite.variants}
    again = [name for name in known if name.startswith(REVISIT)]
    assert again
    for name in again:
        plain = known[name.removeprefix(REVISIT)].to_dict()
        found = known[name].to_dict()
        assert found.pop("objective")["revisit"] > 0 == plain.pop("objective")["revisit"]
        assert found == plain


def test_what_cannot_be_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    for name, options, words in (
        ("grund", {}, "unknown study 'grund'; did you mean 'ground'"),
        ("ground", {"rows": ["none", "hybird"]}, "no row 'hybird'; did you mean 'hybrid'"),
        ("ground", {"rows": []}, "no row is named"),
        ("ground", {"cases": 0}, "0 cases"),
        ("ground", {"cases": 100_000_000}, "100,000,000 cases .* at most"),
        ("ground", {"seed": -1}, "seed -1"),
        ("ground", {"tasks": ["press-button"]}, "--tasks is not for ground"),
        ("ground", {"finished": True}, "--finished is not for ground"),
        ("wam", {"cases": 2000}, "2,000 cases .* at most"),
    ):
        with pytest.raises(LociError, match=words) as caught:
            plan_study(name, tmp_path, StudyOptions(**options))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_console_table_has_every_row(done) -> None:
    _, results = done
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table(table(results), 160))
    text = console.export_text()
    for row in results["rows"]:
        assert row in text
    assert "identity" in text


@pytest.mark.parametrize("name", ["ground", "families", "returns"])
def test_the_console_table_of_a_shipped_study_fits_eighty_columns(name: str) -> None:
    results = json.loads((RESULTS / name / "results.json").read_text())
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table(table(results), 80))
    text = console.export_text()
    assert "…" not in text
    for row in results["rows"]:
        assert f" {row} " in text
