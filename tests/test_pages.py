"""The tables of the pages are those of the results that ship, and what they show to run runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loci.io.user_code import load_file

ROOT = Path(__file__).resolve().parents[1]
tables = load_file(ROOT / "docs" / "write_tables.py", "tables")


@pytest.mark.parametrize("page", tables.PAGES)
def test_pages_show_what_the_results_hold(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tables.filled(text) == text, f"python docs/write_tables.py writes {page} anew"


def test_every_table_stands_on_a_page_and_is_written_over() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in tables.PAGES)
    assert sorted(re.findall(r"<!-- table: (\w+) -->", text)) == sorted(tables.TABLES)
    forged = tables.SPOT.sub(r"\1| `hybrid` | 100 [100, 100] |\n\3", text)
    assert len(forged) < len(text)
    assert tables.filled(forged) == text


# What the README shows is run in a form that takes seconds.
SMALL = {
    "--episodes 8": "--episodes 2", "shortened(100)": "shortened(1)", "--cases 8": "--cases 1",
    "none,context-5,hybrid": "none,hybrid", "25,100,400": "4,8 --repeats 1",
}
WAYS = (
    "Drive a world model", "Act with a policy", "Add a memory", "Train on your data",
    "Compare memories",
)
LOCI = f"{sys.executable} -c 'from loci.commands.main import main; main()'"


def programs(way: str) -> list[tuple[str, str]]:
    """(language, text) of the programs under a heading of the README, in their small form."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = re.split(r"\n\*\*|\n## ", text.partition(f"**{way}")[2])[0]
    found = re.findall(r"```(python|sh)\n(.*?)```", part, re.DOTALL)
    for whole, small in SMALL.items():
        found = [(language, text.replace(whole, small)) for language, text in found]
    return found


# Of training on a dataset and of studies, each has its test; that the README's run, `--slow` shows.
LONG = ("Train on your data", "Compare memories")


@pytest.mark.parametrize("way", [
    pytest.param(way, marks=[pytest.mark.slow] * (way in LONG)) for way in WAYS
])
def test_the_five_ways_of_the_readme_run(way: str, tmp_path: Path) -> None:
    shown = ""
    if way == "Add a memory":
        # That a row of a file can be trained and studied is tested in `test_rows.py`.
        ((_, program),) = programs(way)
        (tmp_path / "anchored.py").write_text(program, encoding="utf-8")
        shown = run([sys.executable, "anchored.py"], tmp_path)
        assert "constant growth: 48 tokens after 400 frames" in shown
        return
    for language, text in programs(way):
        if language == "python":
            shown += run([sys.executable, "-c", text], tmp_path)
            continue
        for line in text.strip().splitlines():
            shown += run(["bash", "-c", line.replace("loci ", LOCI + " ", 1)], tmp_path)
    files = {path.name for path in tmp_path.rglob("*")}
    expected = {
        "Drive a world model": {"loop.png"}, "Act with a policy": set(),
        "Train on your data": {"model.safetensors"}, "Compare memories": {"report.html"},
    }[way]
    assert expected <= files
    said = {"Act with a policy": "'placed': True", "Compare memories": "hybrid"}
    assert said.get(way, "") in shown


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert not done.returncode, done.stderr
    return done.stdout


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
         *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "memory").glob("*.md"))]
# Interval estimates of a page: 83 % [77, 88], -2 points [-4, 0], 3.6 dB [3.1, 4.0].
NUMBER = r"(-?\d+(?:\.\d+)?)"
UNIT = r"(?: ?%| points| dB|\s+times\s+in\s+100)?"
ESTIMATE = re.compile(rf"(?<![\w.,]){NUMBER}{UNIT}\s+\[{NUMBER},\s+{NUMBER}\]")


def estimates(tree: Any) -> Iterator[tuple[float, float, float]]:
    """Middle, low and high end of every estimate in a file of results."""
    if isinstance(tree, dict):
        if {"lo", "hi"} <= tree.keys():
            for name in ("mean", "rate", "median"):
                if tree.get(name) is not None:
                    yield tree[name], tree["lo"], tree["hi"]
        for value in tree.values():
            yield from estimates(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from estimates(value)


@pytest.fixture(scope="module")
def published() -> set[tuple[str, str, str]]:
    """Every estimate in `results/`, as a page may print it: as it is or in percent."""
    found = set()
    for file in (ROOT / "results").rglob("*.json"):
        for three in estimates(json.loads(file.read_text(encoding="utf-8"))):
            for scale, digits in ((100, 0), (1, 1), (1, 2)):
                for sign in (1, -1):
                    ends = sorted(sign * scale * x for x in three[1:])
                    found.add(tuple(f"{x:.{digits}f}" for x in (sign * scale * three[0], *ends)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_estimates_in_the_text_are_those_of_results(
    page: Path, published: set[tuple[str, str, str]]
) -> None:
    text = tables.SPOT.sub("", page.read_text(encoding="utf-8"))
    unknown = [found[0] for found in ESTIMATE.finditer(text) if found.groups() not in published]
    assert not unknown


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    ways = re.findall(r"^\*\*([^*.]+)", text.partition("## Five ways")[2], re.M)
    assert tuple(ways) == WAYS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        if path == "api/index.md":  # `make docs` writes it
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|md))`", text):
        if page.name != "CHANGELOG.md":
            places = (ROOT / name, ROOT / "src" / "loci" / name, ROOT / "docs" / name)
            assert any(place.exists() for place in places), f"{page.name}: {name}"


SAID = """\
What it does, with `code`, `Code`d words, *emphasis* and a * b_.

    y = f(x)

- one, and
  more;
- two:
      z = g(y)

Fields:
first, second: what both are
    and more: of it.
third: another.

with this:
    go on
"""
SHOWN = r"""
What it does, with ``code``, ``Code``\ d words, *emphasis* and a \* b\_.

::

    y = f(x)


- one, and
  more;
- two:

  ::

      z = g(y)

Fields:

- **first, second**: what both are
  and more: of it.

- **third**: another.

::

    with this:
        go on

"""


def test_docstrings_become_what_sphinx_reads() -> None:
    site = load_file(ROOT / "docs" / "conf.py", "pages")
    assert site.as_rst(SAID.splitlines()) == SHOWN.splitlines()[1:]


def test_the_api_has_every_room_and_every_name() -> None:
    site = load_file(ROOT / "docs" / "conf.py", "pages")
    rooms = {path.parent.name for path in (ROOT / "src" / "loci").glob("*/__init__.py")}
    assert rooms == {*site.ROOMS, "commands"}
    alone = {path.stem for path in (ROOT / "src" / "loci").glob("[a-z]*.py")}
    assert alone == set(site.BASE)
    assert "loci.memory.hybrid" in site.modules("memory")


def test_the_masks_are_those_of_the_rows() -> None:
    drawn = dict(load_file(ROOT / "docs" / "draw_masks.py", "masks").pictures())
    # The example's row has no page.
    del drawn["strided"]
    kept = {path.stem: path.read_text() for path in (ROOT / "docs" / "masks").glob("*.svg")}
    assert drawn.keys() == kept.keys()
    assert [name for name in drawn if drawn[name] != kept[name]] == []
