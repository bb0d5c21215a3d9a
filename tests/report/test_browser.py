"""The page in a real browser: tables sort and filter, nothing is wider than a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loci.report.page import render_page

RESULTS = Path(__file__).parents[2] / "results"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here")

# What a person does, and what is seen then.
ACTS = """
const rows = () => [...document.querySelectorAll("#numbers ~ .block tbody tr")]
  .filter(row => !row.hidden).map(row => row.cells[0].innerText.trim().split(/\\s/)[0]);
const seen = {}, heads = document.querySelectorAll("#numbers ~ .block thead button");
seen.all = rows();
heads[1].click(); seen.falling = rows();
heads[1].click(); seen.rising = rows();
seen.sort = heads[1].parentElement.getAttribute("aria-sort");
const box = document.querySelector('.families input[value="gists"]');
for (const other of document.querySelectorAll(".families input")) {
  if (other !== box) other.click();
}
seen.gists = rows();
const interval = () => getComputedStyle(document.querySelector("td small")).display;
seen.before = interval(); document.querySelector(".iv").click(); seen.after = interval();
seen.width = [document.documentElement.scrollWidth, innerWidth];
const out = document.createElement("pre");
out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
"""


def look(tmp_path: Path, width: int) -> dict[str, Any]:
    results = json.loads((RESULTS / "families" / "results.json").read_text())
    page = tmp_path / "page.html"
    text = render_page(results, tmp_path)
    page.write_text(text.replace("</body>", f"<script>{ACTS}</script></body>"))
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-sync", f"--window-size={width},900",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, check=False, timeout=120,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert found is not None, done.stderr[-500:]
    return json.loads(found[1])


def test_the_table_sorts_and_filters_and_shows_intervals_on_demand(tmp_path: Path) -> None:
    results = json.loads((RESULTS / "families" / "results.json").read_text())
    seen = look(tmp_path, 1200)
    assert seen["all"] == list(results["rows"])
    assert sorted(seen["falling"]) == sorted(seen["rising"]) == sorted(seen["all"])
    later = [
        round(100 * results["rows"][row]["recall"]["identity_later"]["mean"])
        for row in seen["falling"]
    ]
    assert later == sorted(later, reverse=True)
    assert seen["sort"] == "ascending"
    assert seen["rising"][0] in ("context-1", "ssm-every4")
    # Rows of reference stay.
    rows = set(results["protocol"]["rows"])
    assert [row for row in seen["gists"] if row in rows] == [
        row for row in seen["rising"] if row in ("hybrid", "tower")
    ]
    assert {"mean-image", "ground-truth"} <= set(seen["gists"])
    assert (seen["before"], seen["after"]) == ("none", "block")


def test_nothing_is_wider_than_a_phone(tmp_path: Path) -> None:
    # The narrowest window that a headless browser opens.
    scrolled, width = look(tmp_path, 500)["width"]
    assert scrolled <= width <= 500
