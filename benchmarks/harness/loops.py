"""Which event loop runs."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util


def new_runner(*, uvloop: bool) -> asyncio.Runner:
    """Return a runner on uvloop, if that is wanted and installed, else on asyncio's own loop."""
    fast = uvloop and importlib.util.find_spec("uvloop") is not None
    return asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop if fast else None)
