"""What a command says while it works: the library's log and its warnings, on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

LIBRARY = logging.getLogger("loci")


class _StandardError(logging.Handler):
    """Lines for a person. Warnings and errors begin with their level."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"loci: {record.levelname.lower()}: "
        print(f"{level}{record.getMessage()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def messages_shown() -> Iterator[None]:
    """Show both inside the block; logging is as before after it."""
    handler, level = _StandardError(), LIBRARY.level
    LIBRARY.addHandler(handler)
    LIBRARY.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    finally:
        LIBRARY.removeHandler(handler)
        LIBRARY.setLevel(level)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    LIBRARY.warning("%s", message)
