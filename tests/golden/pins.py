"""Pins: what was found once, compared with what is found now.

`LOCI_PIN=1 pytest tests/golden` writes them anew, without -n. A pin changes only with a reason:
look at the difference before it is committed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

HERE = Path(__file__).parent
HINT = "; if it was meant: LOCI_PIN=1 pytest tests/golden"
# Other CPUs add numbers up in another order. With the instructions of AVX2 alone, and of SSE
# alone, figures moved by a tenth of this at most and no object or episode was judged otherwise,
# which would move a share by a hundred times as much: discrete scores are exact in effect.
ABSOLUTE, RELATIVE = 5e-4, 1e-4
# These are written as lists.
SHORT = (("mean", "lo", "hi", "n"), ("median", "lo", "hi", "n"))
# A number of a table; the 5 of context-5 is none.
NUMBER = re.compile(r"(?<![\w.,-])-?\d[\d,]*(?:\.\d+)?")


class Check(Protocol):
    """Compare `found` with what a section pins.

    more: there may be more than what is pinned. texts: numbers inside of texts may be rounded
    otherwise.
    """

    def __call__(
        self, section: str, found: Any, more: bool = False, texts: bool = False
    ) -> None: ...


@contextlib.contextmanager
def pins(file: str) -> Iterator[Check]:
    """The pins of a file, to be compared with what is found now, or written anew.

    Fails at the end, with everything that differs: of a section ten lines at most.
    """
    path = HERE / f"{file}.json"
    pinned = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write, wrong = os.environ.get("LOCI_PIN") == "1", []
    if write and "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail("pins are written by one process: leave -n out")

    def check(section: str, found: Any, more: bool = False, texts: bool = False) -> None:
        found = _plain(found)
        if write:
            pinned[section] = found
        elif section not in pinned:
            wrong.append(f"{path.name} has no section '{section}'")
        elif differ := list(differences(found, pinned[section], more, texts)):
            more_lines = [f"and {len(differ) - 10} more"] * (len(differ) > 10)
            wrong.extend([f"{path.name}, {section}:", *differ[:10], *more_lines])

    yield check
    if write:
        path.write_text(_text(pinned), encoding="utf-8")
    if wrong:
        pytest.fail("\n".join(["other than pinned" + HINT, *wrong]), pytrace=False)


def differences(
    found: Any, pinned: Any, more: bool = False, texts: bool = False, where: str = ""
) -> Iterator[str]:
    """A line for each place where two trees differ by more than rounding."""
    if isinstance(found, dict) and isinstance(pinned, dict):
        for key in pinned:
            if key not in found:
                yield f"{where}/{key} is gone"
            else:
                yield from differences(found[key], pinned[key], more, texts, f"{where}/{key}")
        if not more:
            yield from (f"{where}/{key} is new" for key in found if key not in pinned)
    elif isinstance(found, list) and isinstance(pinned, list) and len(found) == len(pinned):
        for number, (one, other) in enumerate(zip(found, pinned, strict=True)):
            yield from differences(one, other, more, texts, f"{where}/{number}")
    elif isinstance(found, float) and isinstance(pinned, float):
        if not abs(found - pinned) <= ABSOLUTE + RELATIVE * abs(pinned):
            yield f"{where} is {found:.6g}, pinned {pinned:.6g}"
    elif type(found) is not type(pinned) or not (
        found == pinned or (texts and isinstance(found, str) and _reads_like(found, pinned))
    ):
        yield f"{where} is {json.dumps(found)}, pinned {json.dumps(pinned)}"


def printed_lines(text: str) -> list[str]:
    """What was printed, line by line, without blanks, rules and the paths of files."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line.strip("─ ") and not line.startswith("/")]


def table_rows(page: str) -> list[str]:
    """The rows of a report's tables that stand for a memory, a floor or a ceiling, sorted."""
    rows = re.findall(r'<tr class="(?:row|floor|ceiling)"[^>]*>.*?</tr>', page, re.DOTALL)
    texts = (re.sub(r"<[^>]*>", " ", re.sub(r"</t[hd]>", " | ", row)) for row in rows)
    lines = [" ".join(text.split()).removesuffix(" |") for text in texts]
    return sorted(lines, key=lambda line: (NUMBER.sub("", line), line))


def masked(tree: Any, paths: Sequence[str]) -> Any:
    """The tree with "*" for what depends on machine, time or history.

    paths: like "rows/*/checkpoint_sha256"; each must be there, in any place at least.
    """
    tree, left = json.loads(json.dumps(tree)), set(paths)

    def visit(node: Any, above: tuple[str, ...]) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            place = (*above, key)
            hits = {path for path in paths if _matches(place, path)}
            if hits:
                node[key] = "*"
                left.difference_update(hits)
            else:
                visit(value, place)

    visit(tree, ())
    assert not left, f"nothing to mask at {', '.join(sorted(left))}"
    return tree


def _matches(place: tuple[str, ...], path: str) -> bool:
    parts = path.split("/")
    return len(parts) == len(place) and all(map(fnmatch.fnmatchcase, place, parts))


def _plain(value: Any) -> Any:
    """As JSON has it, short: floats with six digits, an estimate as a list."""
    if isinstance(value, Mapping):
        if tuple(value) in SHORT:
            return [_plain(item) for item in value.values()]
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _reads_like(found: str, pinned: str) -> bool:
    """Whether texts are equal but for the last digit of numbers."""
    if NUMBER.sub("#", found) != NUMBER.sub("#", pinned):
        return False
    for one, other in zip(NUMBER.findall(found), NUMBER.findall(pinned), strict=True):
        digits = len(other.partition(".")[2])
        a, b = (float(text.replace(",", "")) for text in (one, other))
        if len(one.partition(".")[2]) != digits or abs(a - b) > 1.01 * 10.0**-digits:
            return False
    return True


def _text(tree: Mapping[str, Any]) -> str:
    """JSON, a line for each entry of a section."""
    sections = []
    for section in sorted(tree):
        value = tree[section]
        if isinstance(value, dict):
            lines = [f"  {json.dumps(k)}: {_short(value[k])}" for k in value]
            body = "{\n" + ",\n".join(lines) + "\n }"
        elif isinstance(value, list):
            body = "[\n" + ",\n".join(f"  {_short(item)}" for item in value) + "\n ]"
        else:
            body = _short(value)
        sections.append(f" {json.dumps(section)}: {body}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
