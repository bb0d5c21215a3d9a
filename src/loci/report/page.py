"""A results folder as one HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loci import __version__
from loci.io.files import atomic_write
from loci.io.json_files import read_json
from loci.report import rooms, sentences, tabletop
from loci.report.checks import checks
from loci.report.families import COLORS, families, ordered, present
from loci.report.svg import wide
from loci.report.texts import TEXTS
from loci.study.run import RESULTS
from loci.study.studies import STUDIES

LIMIT = 11_000_000
"""Bytes of pictures and videos that a page may have; beyond it, videos go first, then pictures."""


def write_report(out: str | Path, limit: int = LIMIT) -> Path:
    """Write out/report.html from results.json, and from what else a study left in the folder:
    scores of cases, frames, films and logs. What is gone is left out.

    limit: see LIMIT. Raises LociError where the results are missing or anything is damaged, or the
    page cannot be written.
    """
    out = Path(out)
    results = read_json(out / RESULTS, "run `loci study` there")
    atomic_write(out / "report.html", render_page(results, out, limit))
    return out / "report.html"


def render_page(results: Mapping[str, Any], out: Path, limit: int = LIMIT) -> str:
    """The page as text."""
    study, protocol = tabletop if "success" in results else rooms, results["protocol"]
    said = sentences.of_policies if study is tabletop else sentences.of_rooms
    texts: dict[str, Any] = TEXTS["tabletop" if study is tabletop else "rooms"]
    found = families(protocol)
    of_rows = {row: found[row] for row in ordered(found, study.merits(results))}
    cases = rooms.scored_cases(results, out) if study is rooms else {}
    plots = [
        {"svg": Markup(svg), "text": texts[name].format(**study.words(results)), "wide": wide(svg)}
        for name, svg in study.plots(results, of_rows, out).items()
    ]
    panels, films = study.pictures(results, of_rows, cases, out, limit)
    environment = Environment(
        loader=PackageLoader("loci.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        question=STUDIES[protocol["study"]].question,
        lead=texts["lead"].format(**study.words(results)),
        picture=rooms.picture(panels, of_rows, results, cases) if panels else None,
        panels=[panel for _, panel in panels], films=films, plots=plots, main=study.main(results),
        sentences=list(said(results)), note=texts["note"],
        rankings=results.get("rankings"), tables=list(study.tables(results)),
        glossary=rooms.glossary(results) if study is rooms else [],
        made=study.made(results), version=__version__, protocol=protocol, colors=COLORS,
        facts=[(name, text.format(**protocol)) for name, text in texts["facts"].items()],
        families=found, present=present(found), checks=checks(results, cases),
    )
