"""What the pages say, and what the MemoryWAM paper reports: `texts.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
