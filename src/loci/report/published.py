"""What the MemoryWAM paper reports of the tasks that ours re-create in kind, in per cent.

Its policies have 6 billion parameters, its tasks are RMBench's own, with other robots, pictures and
demonstrations: the numbers stand beside ours for orientation and are never compared with them.
Source: arXiv 2606.20562: success on RMBench, ablations, and memory families on Press Button.
"""

from __future__ import annotations

METHODS = ("DP", "ACT", "pi0.5", "X-VLA", "Mem-0", "FastWAM", "LingBot-VA", "MemoryWAM")
SUCCESS: dict[str, tuple[int, ...]] = {
    "put-back-block": (0, 0, 11, 18, 90, 0, 100, 100),
    "cover-blocks": (0, 0, 0, 2, 68, 0, 79, 98),
    "press-button": (0, 0, 0, 0, 0, 0, 84, 87),
}
# Our rows by what the paper calls theirs. Its model without anchors, gists or window is an
# ablation; FastWAM sees a window alone.
NAMES = {
    "window": "FastWAM", "full": "full attention", "hybrid": "MemoryWAM",
    "no-anchors": "no anchors", "no-gists": "no gists", "rnn": "RNN", "ttt": "TTT",
}
ROWS: dict[str, dict[str, int]] = {
    "put-back-block": {"window": 0, "hybrid": 100},
    "cover-blocks": {"window": 0, "full": 96, "hybrid": 98, "no-anchors": 58, "no-gists": 75},
    "press-button": {
        "window": 0, "full": 87, "hybrid": 87, "no-anchors": 90, "no-gists": 5, "rnn": 78,
        "ttt": 67,
    },
}
