"""`import loci`: what people use, at once, typed, and without what they do not use."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import loci
from loci.errors import LociError
from loci.models.world import WorldModel
from loci.models.world_action import WorldActionModel


@pytest.mark.parametrize("name", loci.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(loci, name) is getattr(loci, name)
    assert name in dir(loci)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(loci.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: f"{node.module}:{alias.name}"
        for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    places = {
        name: place if ":" in place else f"{place}:{name}" for name, place in loci._PLACES.items()
    }
    assert seen == places
    assert (Path(loci.__file__).parent / "py.typed").exists()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'loci' has no attribute 'Sesion'"):
        loci.Sesion  # noqa: B018


def test_importing_loci_imports_nothing_else() -> None:
    code = "import sys, loci; print(*(n for n in ('torch', 'numpy', 'mujoco') if n in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not found.stdout.strip()


def test_load_finds_out_what_a_checkpoint_holds() -> None:
    assert isinstance(loci.load("hybrid"), WorldModel)
    assert isinstance(loci.load("cover-blocks-hybrid"), WorldActionModel)
    with pytest.raises(LociError, match=r"codec holds a codec; give a world-model or a world-act"):
        loci.load("codec")
    with pytest.raises(LociError, match=r"no checkpoint at hybird; did you mean 'hybrid'"):
        loci.load("hybird")
