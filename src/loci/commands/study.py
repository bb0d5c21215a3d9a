"""`loci study`: what is missing is announced, and made; then the report is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loci.report.page import write_report
from loci.study.estimates import percent
from loci.study.rooms.results import table as rooms
from loci.study.run import Plan, make
from loci.study.studies import StudyOptions, plan_study
from loci.study.tables import Grid, Line
from loci.study.tabletop.results import last_stage


def study(name: str, out: Path, options: StudyOptions) -> dict[str, Any]:
    """Make what is missing of a study in the folder `out`, and its page; the results.

    Before that it says what will be trained and played, and about how long that takes. Raises what
    `plan_study` raises.
    """
    plan = plan_study(name, out, options)
    print(announced(plan), file=sys.stderr, flush=True)
    results = make(plan)
    write_report(out)
    return results


def announced(plan: Plan) -> str:
    """What a plan will train and play, and about how long that takes."""
    sources = [entry.source for entry in plan.entries.values()]
    parts = [f"{sources.count(source)} {source}" for source in dict.fromkeys(sources)]
    if plan.untrained:
        names = ", ".join(variant.name for variant in plan.untrained)
        parts.append(f"{len(plan.untrained)} to be trained ({names})")
    seconds = plan.seconds
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    about = about if seconds < 6000 else f"{seconds / 3600:.1f} h"
    ends = f"about {about} on two cores" if seconds else "nothing is left to be played"
    return f"loci: {plan.suite.name}: {', '.join(parts)}; {ends}"


def table(results: Mapping[str, Any]) -> Grid:
    """The results of a study for a console."""
    return policies(results) if "success" in results else rooms(results)


def policies(results: Mapping[str, Any]) -> Grid:
    """Tasks and rows, floors first and the ceiling last: success and what was right, by hold."""
    protocol = results["protocol"]
    holds = [str(hold) for hold in protocol["holds"]]
    heads = [f"{what}\nhold {hold}" for what in ("success", "right") for hold in holds]
    grid = Grid(
        f"{protocol['study']}: {protocol['case_count']} episodes, seed {protocol['seed']}; % with "
        "95 % intervals\nhold: how many times as long as in training; right: of those that came "
        "so far", ["task, row", *heads], narrow=True,
    )
    empty = [""] * len(holds)
    for task, rows in results["success"].items():
        baselines = results["baselines"][task]

        def reference(names: Sequence[str], kind: str, baselines: Any = baselines) -> list[Line]:
            return [
                Line(f"  {name}", [*(percent(baselines[h][name]) for h in holds), *empty], kind)
                for name in names
            ]

        chance = [f"{100 * protocol['tasks'][task]['chance']:.0f}"] * len(holds)
        grid.lines.extend([
            Line(task, empty * 2, "head"), *reference(protocol["floors"], "floor"),
            Line("  chance", [*chance, *empty], "floor"),
        ])
        for row, by_hold in rows.items():
            found = [percent(by_hold[hold]["success"]) for hold in holds]
            right = [percent(last_stage(by_hold[hold])) for hold in holds]
            grid.lines.append(Line(f"  {row}", [*found, *right]))
        grid.lines.extend(reference(protocol["ceilings"], "ceiling"))
    return grid
