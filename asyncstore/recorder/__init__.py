"""
A run, recorded: what happens inside ``async with`` blocks is written to the run log, and how each block ended with it.

Every block is written twice: PROCESSING when it is entered, SUCCESS or FAIL when it is left. The last write is made
when the block is cancelled, too.
"""

from __future__ import annotations

from asyncstore.recorder._scope import BranchRecorder, RunRecorder
from asyncstore.recorder._step import StepRecorder

__all__ = ["BranchRecorder", "RunRecorder", "StepRecorder"]
