"""
The environment of magnus, made once and kept in the user's cache folder: it needs pydantic 1.

Its worker is :mod:`harness.magnus_contender`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("magnus==0.4.22", "magnus-extensions[aws]==0.2.13", "pydantic<2", "setuptools<81")
VERSIONS = "magnus 0.4.22, magnus-extensions 0.2.13"

PYTHONS = ("python3.11", "python3.10", "python3.9")
"""Interpreters that these versions run on, best first."""


class MagnusError(RuntimeError):
    """There is no environment with magnus; the message says why."""


def magnus_python() -> str:
    """
    Return the interpreter of an environment with magnus; makes it at the first call, which takes a minute.

    Raises:
        MagnusError: there is no fitting Python, or pip failed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "asyncstore-benchmarks" / "magnus-0.4.22"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        base = sys.executable if sys.version_info < (3, 12) else next(filter(None, map(shutil.which, PYTHONS)), None)
        if base is None:
            raise MagnusError(f"none of {', '.join(PYTHONS)} is installed; name an environment by --magnus-python")
        _run(base, "-m", "venv", "--clear", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS)
        complete.touch()
    return str(python)


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MagnusError(f"{' '.join(command)}: {done.stderr[-2000:]}")
