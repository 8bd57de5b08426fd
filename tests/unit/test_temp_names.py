"""Names of files on their way: no two processes have the same."""

from __future__ import annotations

import subprocess
import sys

from asyncstore._core.files import TEMP_NAME, new_temp_name

FORKED = """
import os
import random
from asyncstore._core.files import new_temp_name
random.seed(1)
print(new_temp_name(), flush=True)
for _ in range(2):
    child = os.fork()
    if not child:
        print(new_temp_name(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print(new_temp_name(), flush=True)
"""


def test_names_are_those_of_files_on_their_way() -> None:
    names = {new_temp_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(TEMP_NAME.fullmatch(name) for name in names)


def test_processes_have_names_of_their_own() -> None:
    """Also forks of one process, and processes that seed their random numbers alike."""
    outputs = [
        subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    names = "".join(outputs).split()
    assert len(names) == 8
    assert len(set(names)) == 8
