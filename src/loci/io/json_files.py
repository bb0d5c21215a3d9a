"""Files of JSON, and of lines of JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from loci.errors import LociError


def to_json(data: Any) -> str:
    """A tree as results are written."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def read_json(file: Path, fix: str = "delete it, it is made again") -> Any:
    """What a file holds, packed with gzip or not; LociError for a damaged one, with its fix."""
    try:
        data = file.read_bytes()
        return json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
    except (OSError, EOFError, ValueError) as error:
        raise LociError(f"{file} is damaged ({error}); {fix}") from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a log of JSON, without what a kill left unfinished; empty where there is none.

    Of several lines of one episode the first counts.
    """
    lines: dict[Any, dict[str, Any]] = {}
    for number, text in enumerate(file.read_text("utf-8").splitlines() if file.exists() else ()):
        try:
            line = json.loads(text)
        except ValueError:
            break
        lines.setdefault(("episode", line["episode"]) if "episode" in line else number, line)
    return list(lines.values())
