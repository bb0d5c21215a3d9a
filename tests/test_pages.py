"""The tables of the pages are those of the results that ship, and what they show to run runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize("number", range(2))
def test_the_programs_of_the_readme_run(number: int, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(import .*?)```", text, re.DOTALL)
    assert len(programs) == 2
    subprocess.run([sys.executable, "-c", programs[number]], cwd=tmp_path, check=True, timeout=120)
