"""Work shared by processes: the same results, in order, and no more than is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from loci.io.parallel import parallel_map


def noted(number: int, folder: str) -> tuple[int, int]:
    """The number and the process that it came to; a file says so."""
    (Path(folder) / str(number)).touch()
    if number == 13:
        raise ValueError("thirteen")
    return number, os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_of_an_endless_stream_until_nobody_asks(workers, tmp_path):
    found = []
    for number, process in parallel_map(partial(noted, folder=str(tmp_path)), count(), workers):
        found.append(number)
        assert (process == os.getpid()) == (workers == 1)
        if number == 9:
            break
    assert found == list(range(10))
    assert len(list(tmp_path.iterdir())) <= 10 + 2 * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_met_where_it_is_its_turn(workers, tmp_path):
    results = parallel_map(partial(noted, folder=str(tmp_path)), range(99), workers)
    assert [next(results)[0] for _ in range(13)] == list(range(13))
    with pytest.raises(ValueError, match="thirteen"):
        next(results)


def test_a_program_that_works_on_import_is_told_so_once(tmp_path):
    program = tmp_path / "program.py"
    # The pool tells its futures one by one, and here it takes its time: what the caller does in the
    # meantime must not stop it.
    program.write_text(
        "import time\n"
        "from concurrent.futures import Future\n"
        "from loci.io.parallel import parallel_map\n"
        "set_exception = Future.set_exception\n"
        "def slow(self, error):\n"
        "    set_exception(self, error)\n"
        "    time.sleep(0.3)\n"
        "Future.set_exception = slow\n"
        "print(list(parallel_map(abs, range(9), 2)))\n"
    )
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.count("Traceback") == 1
    assert 'put what your program does under `if __name__ == "__main__":`' in ran.stderr
