"""The composite step of branches whose step nobody records as a block of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncstore.models import FAIL, PROCESSING, SUCCESS
from asyncstore.recorder._recording import close_attempt

if TYPE_CHECKING:
    from asyncstore.recorder._recording import Recording

__all__ = ["Owner"]

NAMES_SHOWN = 5
"""Most failed branches that the step's message names."""


class Owner:
    """
    The composite step that branches belong to, recorded along with them where the user does not record it.

    Branches that come one after the other open it anew; it stays one attempt.
    """

    def __init__(self, recording: Recording, name: str, internal_name: str, step_type: str) -> None:
        self._recording = recording
        self._internal_name = internal_name
        self._log, self._attempt = recording.begin_attempt(name, internal_name, step_type)
        self._lock = asyncio.Lock()
        self._active = False
        self._stored = False
        self._running = 0
        self._outcomes: dict[str, str] = {}

    @classmethod
    def of(cls, recording: Recording, name: str, internal_name: str, step_type: str) -> Owner | None:
        """Return the owner, with one more branch below it; ``None`` if the step is recorded as a block of its own."""
        owner = recording.owners.get(internal_name)
        if owner is None or not owner._active:
            if ("step", internal_name) in recording.running:
                return None
            recording.begin("step", internal_name)
            owner = owner or cls(recording, name, internal_name, step_type)
            recording.owners[internal_name] = owner
        owner._active = True
        owner._running += 1
        return owner

    async def started(self) -> None:
        """Make sure that the step is stored as running before its branch is."""
        async with self._lock:
            if not self._stored:
                self._log.status = self._attempt.status = PROCESSING
                self._attempt.end_time = ""
                await self._recording.write_step(self._log)
                self._stored = True

    async def left(self, branch: str, status: str) -> None:
        """Note how a branch ended; the last one to end closes the step."""
        self._outcomes[branch] = status
        self._running -= 1
        async with self._lock:
            if self._active and self._running == 0:
                await self._close()

    async def _close(self) -> None:
        failed = [name for name, outcome in self._outcomes.items() if outcome == FAIL]
        message = f"{len(failed)} of {len(self._outcomes)} branches failed: {', '.join(failed[:NAMES_SHOWN])}"
        if len(failed) > NAMES_SHOWN:
            message += " …"
        close_attempt(self._log, self._attempt, FAIL if failed else SUCCESS, message if failed else "")
        self._stored = False
        try:
            await self._recording.write_step(self._log)
        finally:
            # A branch may have come while this was written; it is waiting to open the step again.
            if self._running == 0:
                self._active = False
                self._recording.end("step", self._internal_name)
