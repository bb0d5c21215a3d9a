"""Wrong arguments of public methods: one line that names them, and nothing changed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loci.errors import LociError
from loci.errors.arguments import Holds, as_tensor, check_tensor, checked_arguments
from loci.memory import ROWS
from loci.memory.frames import EXTRAS, Frames
from loci.streaming.session import Session
from tiny_world import same, tiny_world, walk

MODEL = tiny_world(ROWS["hybrid"])
POSES, FRAME, NOISE = walk(2, 5), torch.ones(2, 1, 8, 4, 4), torch.zeros(2, 2, 8, 4, 4)
WHOLE: dict[str, Callable[[Session], dict[str, Any]]] = {
    "init": lambda s: {"text": None, "lengths": None},
    "tell": lambda s: {"text": None, "lengths": None},
    "write": lambda s: {
        "latents": FRAME, "poses": POSES[:, 1:2], "streams": None, "depth": None,
        "intrinsics": None, "images": None, "gauge": 0,
    },
    "reanchor": lambda s: {"change": POSES[0, 1], "gauge": 1, "streams": None},
    "read": lambda s: {"poses": POSES[:, 1:3], "streams": None, "gauge": 0},
    "denoise": lambda s: {"reading": s.read(POSES[:, 1:3]), "x": NOISE, "time": 0.5},
    "generate": lambda s: {
        "poses": POSES[:, 1:3], "noise": NOISE, "steps": 1, "streams": None, "gauge": 0,
    },
    "solve": lambda s: {"reading": s.read(POSES[:, 1:3]), "noise": NOISE, "steps": 1},
    "fill": lambda s: {"frames": 3},
    "restore": lambda s: {"tree": s.snapshot()},
    "fork": lambda s: {"capacity": 3},
    "reset": lambda s: {"streams": [0]},
    "save": lambda s: {"path": "session.safetensors"},
    "load": lambda s: {"model": MODEL, "path": "session.safetensors"},
    "tokens": lambda s: {"stream": 0},
    "bytes": lambda s: {"stream": 0},
    "snapshot": lambda s: {},
}
WRONG: dict[str, list[Any]] = {
    "Tensor": [
        None, FRAME.numpy(), "frame", 3, torch.zeros(2), FRAME.bool(), FRAME.to(torch.complex64),
        FRAME.to("meta"), FRAME * torch.nan, FRAME[:0], object(),
    ],
    "float": [None, "half", np.zeros(2), -0.5, 2, float("nan"), True],
    "int": [None, "three", 2.5, np.zeros(2), torch.zeros(2), -1, True],
    "Sequence[int]": [3, "01", [None], [0.5], [0, 0], [7], [-1], np.zeros((2, 1)), {0: 1}],
    "Mapping[str, Tensor]": [None, {}, {"reference": None}, [FRAME], "tree"],
    "str": [None, 3, FRAME, ["a", "b"]],
    "OnStep": [3, "step", FRAME],
    "Reading": [None, FRAME, "reading"],
    "WorldModel": [None, "model", torch.nn.Linear(2, 2)],
}


def parameters() -> list[Any]:
    """Every parameter of every public method, with what does not fit its annotation."""
    found = []
    for method in sorted(WHOLE):
        for name, parameter in inspect.signature(getattr(Session, method)).parameters.items():
            options = [part.strip() for part in str(parameter.annotation).split("|")]
            if name != "self":
                wrong = [w for option in options for w in WRONG.get(option, [])]
                wrong = [w for w in wrong if "None" not in options or w is not None]
                if {"float", "Tensor"} <= set(options):
                    wrong = [w for w in wrong if not (isinstance(w, Tensor) and w.numel() == 2)]
                found.append(pytest.param(method, name, wrong, id=f"{method}-{name}"))
    return found


def test_every_public_method_is_here() -> None:
    public = {name for name, value in vars(Session).items()
              if not name.startswith("_") and not isinstance(value, property)}
    # Places take a memory that knows some (`streaming/test_place.py`), guidance a model that reads
    # (`streaming/test_guidance.py`); `of` is what `load` does with the tree of a file.
    assert public == {*WHOLE, "place", "begin_in", "guide", "of"}


@pytest.mark.parametrize(("method", "name", "wrong"), parameters())
def test_what_does_not_fit_is_one_line_and_changes_nothing(
    method: str, name: str, wrong: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session = MODEL.session(2)
    session.write(FRAME, POSES[:, :1])
    if method == "load":
        session.save("session.safetensors")
    elif method == "fill":
        session = MODEL.session(2)
    before = session.snapshot()
    assert wrong
    for value in wrong:
        arguments = WHOLE[method](session) | {name: value}
        with pytest.raises(LociError) as caught:
            getattr(session, method)(**arguments)
        assert "\n" not in str(caught.value)
        assert same(session.snapshot(), before)
    getattr(session, method)(**WHOLE[method](session))


@pytest.mark.parametrize(("arguments", "line"), [
    ({"model": None}, "Session: model is None; give a WorldModel"),
    ({"batch": 2.0}, r"Session: batch is a float \(2.0\); give a whole number"),
    ({"batch": 0}, "a session of 0 streams"),
    ({"capacity": -1}, "a capacity of -1 frames"),
    ({"gradients": None}, "Session: gradients is None; give True or False"),
])
def test_a_session_is_not_made_of_anything(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(LociError, match=line):
        Session(**{"model": MODEL} | arguments)


def test_pythons_own_line_about_what_is_missing_stays() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'poses'"):
        MODEL.session(2).write(FRAME)  # pyrefly: ignore


def test_numbers_of_numpy_are_numbers() -> None:
    session = MODEL.session(int(np.int64(2)))
    session.write(FRAME, POSES[:, :1], np.array([0, 1]))
    session.generate(POSES[:, 1:3], NOISE, np.int64(1), range(2))
    session.denoise(session.read(POSES[:, 1:3]), NOISE, np.float32(0.5))


@checked_arguments
class Example:
    """Methods of all sorts."""

    @classmethod
    def made(cls, size: int) -> Example:
        return cls()

    @staticmethod
    def still(size: int) -> int:
        return size

    def several(self, sizes: Sequence[int], named: Mapping[str, int], *more: int) -> int:
        return sum(sizes) + sum(named.values()) + sum(more)

    def unknown(self, plain, other: Nowhere | int) -> tuple[Any, Any]:  # noqa: F821 # pyrefly: ignore
        return plain, other

    def _private(self, size: int) -> Any:
        return size


def test_classmethods_are_checked_and_what_cannot_be_known_is_let_through() -> None:
    assert isinstance(Example.made(3), Example)
    with pytest.raises(LociError, match=r"Example\.made: size is a str"):
        Example.made("3")  # pyrefly: ignore
    assert Example().several([1, 2], {"a": 3}, 4, 5) == 15
    with pytest.raises(LociError, match=r"sizes is a list .*; give a list of whole numbers"):
        Example().several([1.5], {})  # pyrefly: ignore
    with pytest.raises(LociError, match=r"named is a list \(\[\]\); give a map"):
        Example().several([1], [])  # pyrefly: ignore
    assert Example().unknown("x", "y") == ("x", "y")
    assert Example()._private("x") == "x"  # pyrefly: ignore


def test_a_tensor_is_checked() -> None:
    x = torch.zeros(2, 3)
    assert check_tensor(x, "x", ("B", 3)) is x
    for value, holds, line in (
        (None, Holds.FLOATS, "x: None; give a torch tensor"),
        (x[:, :2], Holds.FLOATS, r"x of shape \(2, 2\); give \(B, 3\), a row each"),
        (x[:0], Holds.FLOATS, r"x of shape \(0, 3\); give \(B, 3\)"),
        (x.long(), Holds.FLOATS, "x in int64; give floating point numbers"),
        (x.bool(), Holds.NUMBERS, "x in bool; give floating point or whole numbers"),
        (x, Holds.BYTES, "x in float32; give torch.uint8"),
        (x * torch.nan, Holds.FLOATS, "NaN or infinity in x"),
        (x.to("meta"), Holds.FLOATS, "x on the meta device"),
    ):
        with pytest.raises(LociError, match=line):
            check_tensor(value, "x", ("B", 3), holds, note="a row each")
    check_tensor(x.long(), "x", ("B", 3), Holds.NUMBERS)
    check_tensor(x * torch.nan, "x", ("B", 3), finite=False)
    check_tensor(x.to("meta"), "x", ("B", 3), meta=True)


def test_what_a_memory_may_ask_for_is_what_frames_have() -> None:
    assert set(EXTRAS) == {f.name for f in fields(Frames)} - {"latents", "poses", "time"}
    session = MODEL.session(1)
    for name, shape in EXTRAS.items():
        sizes = [5 if isinstance(size, str) else size for size in shape]
        dtype = torch.uint8 if name == "images" else torch.float32
        value = torch.zeros(1, 1, *sizes, dtype=dtype)
        with pytest.raises(LociError, match=rf"{name} of shape .*; give \(1, 1, "):
            session.write(FRAME[:1], POSES[:1, :1], **{name: value[..., None]})
        session.write(FRAME[:1], POSES[:1, :1], **{name: value})


def test_arrays_that_must_not_be_written_to_are_taken_without_a_warning() -> None:
    array = np.arange(3.0)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = as_tensor(array, "state")
    taken[0] = 7
    assert array[0] == 0
