"""What every report page is made with: its template, and the results that it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from loci.errors import LociError


def template(name: str) -> Template:
    """A page's template; what it asks for and nobody gives is an error."""
    environment = Environment(
        loader=PackageLoader("loci.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    return environment.get_template(name)


def read_results(file: Path) -> dict[str, Any]:
    """A JSON file of a study's folder. LociError where it is missing or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LociError(f"no {file.name} in {file.parent}; run `loci study` there") from error
    except (OSError, ValueError) as error:
        raise LociError(f"{file} cannot be read ({error}); run the study again") from error
