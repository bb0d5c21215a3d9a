"""The command: what it prints, how it ends, and what it hands on."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import loci
from loci.commands import doctor
from loci.commands import main as cli
from loci.commands import study as studying
from loci.errors import LociError
from loci.study.studies import StudyOptions

TINY = Path(__file__).parents[1] / "tiny_run.py"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("LOCI_DEBUG", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")


def ending(*arguments: str) -> int:
    """The exit code of `loci` with these arguments."""
    try:
        cli.main(list(arguments))
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    return 0


def fake(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    """Put a module in the place of one that takes minutes."""
    made = types.ModuleType(module)
    vars(made).update(functions)
    monkeypatch.setitem(sys.modules, module, made)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["train", "study", "bench", "rollout", "map", "worlds", "doctor", "Memory"]),
        (["--help"], ["generate"]),
        (["train", "--help"], ["RECIPE", "--out DIR", "--resume", "--threads N", "bit for bit"]),
        (["study", "--help"], ["NAME", "--rows A,B", "--cases N", "--from-scratch", "--json"]),
        (["bench", "--help"], ["--rows A,B", "--frames N,M", "--repeats N", "--out FILE"]),
        (["bench", "--help"], ["--policy {small,paper}", "--memory GB", "--plot SVG"]),
        (["rollout", "--help"], ["CHECKPOINT", "--path NAME", "a view of room S", "--steps N"]),
        (["generate", "--help"], ["CHECKPOINT", "--keys KEYS", "--memory FILE", "--solver"]),
        (["map", "--help"], ["SOURCE", "--out PLY", "--picture PNG", "--voxel METRES", "loop180"]),
        (["data", "--help"], ["check", "record", "LeRobot"]),
        (["data", "check", "--help"], ["FOLDER", "--config FILE", "--quick", "--json"]),
        (["data", "stats", "--help"], ["FOLDER", "--config FILE", "--json"]),
        (["data", "label", "--help"], ["FOLDER", "--reach METRES", "--share S"]),
        (["data", "make-tiny", "--help"], ["OUT", "--scenes N", "--length N", "--size PIXELS"]),
        (["eval", "scenes", "--help"], ["DIR", "--cases N", "--out FILE", "held out"]),
        (["data", "record", "--help"], ["--task TASK", "--episodes N", "--out DIR", "--steady",
                                        "--drift RADIANS"]),
        (["weights", "--help"], ["inspect", "convert", "verify", "Wan"]),
        (["weights", "inspect", "--help"], ["PATH", "--json"]),
        (["weights", "convert", "--help"], ["SRC", "DST", "{original,diffusers,loci}",
                                            "--shard GB"]),
        (["weights", "verify", "--help"], ["PATH", "--block N", "--seed S"]),
        (["worlds", "--help"], ["render"]),
        (["worlds", "render", "--help"], ["{train,heldout,open}", "loop180", "--task NAME"]),
        (["doctor", "--help"], ["--json", "missing"]),
    ],
)
def test_help_reads_well(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    assert ending(*arguments) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words), text
    assert "None" not in text
    assert len(re.findall(r"^│ --", text, re.MULTILINE)) < 10


def test_help_and_version_do_not_load_torch() -> None:
    script = (
        "import sys; from loci.commands.main import main\n"
        "for arguments in (['--version'], ['train', '--help']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as leave: assert not leave.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    here = str(Path(loci.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": here},
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"loci {loci.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["trian"], ["train", "tiny"], ["worlds", "render", "house", "--out", "x.mp4"]],
)
def test_wrong_usage_ends_with_two(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert ending(*arguments) == 2
    assert "loci" in capsys.readouterr().err


def test_training_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["train", f"{TINY}:tiny", "--out", str(out), "--threads", "1", "--steps", "8"]
    assert ending(*command) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(rf"{out}: 8 steps in 0\.0 min, loss [\d.]+, weights \w{{16}}\n", printed)
    assert (out / "model.safetensors").exists()

    assert ending(*command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"loci: error: {out} already holds this run; continue it with --resume")
    assert error.count("\n") == 1

    assert ending(*command, "--resume") == 0
    assert capsys.readouterr().out == printed


def test_an_unknown_recipe_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending("train", "nothing", "--out", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert error.startswith("loci: error: unknown recipe 'nothing'")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


RESULTS = {
    "protocol": {"study": "rooms", "case_count": 3, "seed": 0},
    "cost": {},
    "rows": {
        "none": {"recall": {"psnr_seen": {"mean": 17.25, "lo": 16.0, "hi": 18.0, "n": 3}}},
        "hybrid": {
            "recall": {
                "psnr_seen": {"mean": 24.5, "lo": 23.0, "hi": 26.0, "n": 3},
                "identity_later": {"mean": 0.9, "lo": 0.8, "hi": 1.0, "n": 3},
            }
        },
    },
}


def test_a_study_gets_its_options_and_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []

    def study(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return RESULTS

    monkeypatch.setattr(studying, "study", study)
    assert ending("study", "rooms", "--out", str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert re.search(r"none.*17\.2.*hybrid.*24\.5", text, re.DOTALL)
    assert text.endswith(f"{tmp_path / 'report.html'}\n")
    assert ending(
        "study", "rooms", "--out", str(tmp_path), "--rows", "none, hybrid", "--cases", "5",
        "--seed", "2", "--from-scratch", "--json",
    ) == 0
    assert json.loads(capsys.readouterr().out) == RESULTS
    assert calls == [
        ("rooms", tmp_path, StudyOptions()),
        ("rooms", tmp_path, StudyOptions(
            rows=("none", "hybrid"), cases=5, seed=2, from_scratch=True
        )),
    ]
    assert ending("study", "rooms", "--out", str(tmp_path), "--rows", ",") == 2
    assert ending(
        "study", "wam", "--out", str(tmp_path), "--tasks", "press-button", "--finished",
        "--replace", "--json",
    ) == 0
    asked = StudyOptions(tasks=("press-button",), finished=True, replace=True)
    assert calls[2:] == [("wam", tmp_path, asked)]


def test_a_study_that_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, line in (
        (["wam", "--finished", "--cases", "4"], "nothing of that is finished in "),
        (["ground", "--tasks", "a"], "--tasks is not for ground; leave it out"),
        (["ground", "--finished"], "--finished is not for ground; name its finished --rows"),
        (["ground", "--cases", "0"], "0 cases show nothing; ask for 1 or more"),
        (["wan"], "unknown study 'wan'; did you mean 'wam'? (known: evidence, families, "),
    ):
        assert ending("study", *options, "--out", str(tmp_path / "out")) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"loci: error: {line}")
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [
    ["bench", "--out"], ["bench", "--plot"], ["probe", "none", "--out"],
    ["rollout", "none", "--path", "loop180", "--out"], ["worlds", "render", "rooms", "--out"],
    ["map", "rooms", "--out"],
])
def test_a_file_that_cannot_be_written_is_refused_before_it_is_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(*_: Any, **__: Any) -> None:
        raise AssertionError("began")

    for place in (
        "loci.commands.bench.run", "loci.commands.probe.run", "loci.models.world.WorldModel.load",
        "loci.worlds.rooms.room.Room.render",
    ):
        monkeypatch.setattr(place, work)
    suffix = {"--plot": ".svg", "render": ".png", "rollout": ".mp4", "map": ".ply"}
    ending_of = next((suffix[word] for word in command if word in suffix), ".json")
    (tmp_path / f"folder{ending_of}").mkdir()
    (tmp_path / "file").touch()
    for name, line in (
        (f"folder{ending_of}", "is a folder; name a file in it"),
        (f"file/name{ending_of}", "is a file; choose another folder"),
    ):
        assert ending(*command, str(tmp_path / name)) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian", "x"], "unknown command 'trian' of loci; did you mean 'train'?"),
        (["data", "chek", "."], "unknown command 'chek' of loci data; did you mean 'check'?"),
        (["--vesion"], "unknown option '--vesion' of loci; did you mean '--version'?"),
        (
            ["train", "rooms-none", "--otu", "x"],
            "unknown option '--otu' of loci train; did you mean '--out'?",
        ),
        (
            ["rollout", "x", "--first_fram=a"],
            "unknown option '--first_fram' of loci rollout; did you mean '--first-frame'?",
        ),
        (["bench", "--policy", "smal"], "unknown --policy 'smal' of loci bench; did you mean 'sm"),
        (["bench", "--policy=smal"], "unknown --policy 'smal' of loci bench; did you mean 'small"),
        (
            ["worlds", "render", "room"],
            "unknown value 'room' of loci worlds render; did you mean 'rooms'?",
        ),
        (["rollout", "", "--path", "loop180", "--out", "x.mp4"], "no checkpoint is named; give"),
        (
            ["rollout", "hybird", "--path", "loop180", "--out", "x.mp4"],
            "no checkpoint at hybird; did you mean 'hybrid'?",
        ),
    ],
)
def test_what_is_misspelt_is_one_line_with_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert ending(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"loci: error: {line}")
    assert error.count("\n") == 1


def test_a_rollout_gets_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[Any, ...]] = []
    fake(
        monkeypatch, "loci.commands.rollout",
        rollout=lambda *arguments: calls.append(arguments),
    )
    base = ["rollout", "m.safetensors", "--first-frame", "a.png", "--path", "loop180"]
    assert ending(*base, "--out", "x.mp4", "--seed", "4") == 0
    assert capsys.readouterr().out == "x.mp4\n"
    picture, video = Path("a.png"), Path("x.mp4")
    assert calls == [("m.safetensors", picture, "loop180", video, 4, None, False, None)]


def test_rooms_are_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["worlds", "render", "rooms", "--seed", "3", "--path", "left45-return", "--out"]
    assert ending(*command, str(tmp_path / "x.png")) == 0
    assert "x.png" in capsys.readouterr().out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert ending(*command, str(tmp_path / "x.gif")) == 2
    assert capsys.readouterr().err.startswith("loci: error: ")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space\nleft")


def bad_input() -> None:
    raise LociError("the file is bad; fix it")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("act", "code", "line"),
    [
        (bad_input, 2, "loci: error: the file is bad; fix it\n"),
        (interrupt, 130, "loci: interrupted\n"),
        (full_disk, 1, "loci: error: unexpected OSError: [Errno 28] No space left; LOCI_DEBUG=1"),
    ],
)
def test_every_failure_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    act: Any, code: int, line: str,
) -> None:
    monkeypatch.setattr(doctor, "diagnose", act)
    assert ending("doctor") == code
    error = capsys.readouterr().err
    assert error.startswith(line)
    assert error.count("\n") == 1

    monkeypatch.setenv("LOCI_DEBUG", "1")
    with pytest.raises((LociError, KeyboardInterrupt, OSError)):
        cli.main(["doctor"])


def test_a_reader_that_leaves_is_no_error() -> None:
    here = str(Path(loci.__file__).parents[1])
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "loci.commands.main", "--version"], stdout=write,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": here}, text=True, check=False,
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return doctor.diagnose()


def test_the_doctor_measures_this_machine(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found)) == found
    speed = found["speed"]
    for name in ("gemm_fp32", "gemm_fp32_medium", "gemm_bf16", "room_frame", "medium_error"):
        assert speed[name] > 0
    assert found["packages"]["torch"]
    assert found["machine"]["threads"] >= 1
    assert {v["level"] for v in found["verdicts"]} <= {"ok", "warn", "fail"}


def test_the_doctor_prints_a_table_and_verdicts(found: dict[str, Any]) -> None:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    doctor.show(found, console)
    text = console.export_text()
    assert "GFLOP/s" in text
    assert all(verdict["text"] in text for verdict in found["verdicts"])


def test_the_doctor_names_what_is_missing_and_its_install_line(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = found | {
        "packages": found["packages"] | {"einops": None},
        "optional": dict.fromkeys(found["optional"]),
    }
    verdicts = doctor.verdicts(without)
    text = "\n".join(v["text"] for v in verdicts)
    assert "missing: einops; run: pip install einops" in text
    assert "no mujoco-core, gymnasium, scipy, which rooms and the tabletop need" in text
    for name in ("worlds", "data", "report", "wan"):
        assert f"pip install 'loci-memory[{name}]'" in text
    assert "pip install lpips" in text
    monkeypatch.setattr(doctor, "diagnose", lambda: without | {"verdicts": verdicts})
    assert ending("doctor", "--json") == 1
    assert json.loads(capsys.readouterr().out)["packages"]["einops"] is None


def test_the_doctor_judges_speed() -> None:
    speed = {
        "gemm_fp32": 90.0, "gemm_fp32_medium": 190.0, "medium_error": 4e-7, "gemm_bf16": 390.0,
        "gemm_gpu_bf16": None, "room_frame": 1.0,
    }
    machine = {"cores": 2, "load": 3.0, "gpu": None, "omp_wait_policy": None}
    found = {"packages": {}, "optional": {}, "machine": machine, "speed": speed}
    found["optional"] = {name: "1" for names, *_ in doctor.OPTIONAL for name in names}

    def text(**changes: float) -> str:
        changed = found | {"speed": speed | changes}
        return "\n".join(f"{v['level']} {v['text']}" for v in doctor.verdicts(changed))

    assert "ok medium precision is fp32 to rounding, 2.1x faster" in text()
    assert "ok bf16 products are 2.1x faster" in text()
    assert "warn waiting threads spin" in text()
    assert "warn the machine is busy" in text()
    assert "1,000 frames a second" in text()
    assert "medium precision loses digits" in text(medium_error=2e-3)
    assert "medium precision brings nothing" in text(gemm_fp32_medium=91.0)
    assert "warn bf16 has 0.5% of the speed of fp32" in text(gemm_bf16=0.95)


def test_the_doctor_knows_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[; ]", entry)[0].lower() for entry in project["dependencies"]}
    assert set(doctor.CORE) == names
