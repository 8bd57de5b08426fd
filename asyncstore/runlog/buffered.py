"""The ``buffered`` layout: run logs in this process' memory, for tests and throw-away runs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from asyncstore._core.clock import PROCESS_CLOCK
from asyncstore._core.settings import Settings
from asyncstore.errors import RunLogNotFoundError
from asyncstore.runlog._queries import RunQuery, summary_of
from asyncstore.runlog.base import RunLogStore
from asyncstore.runlog.fragments import HEADER, Fragment, FragmentKey, Selection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AsyncExitStack

    from asyncstore.models import RunSummary

__all__ = ["BufferedRunLogStore"]


class BufferedSettings(Settings):
    """The ``buffered`` layout has no settings."""


class BufferedRunLogStore(RunLogStore):
    """
    Keeps run logs in memory, until the object is gone: nothing outlives the process, and no other process sees it.

    Closing the store keeps what it holds; a second object shares nothing with it.
    """

    def __init__(self, **options: object) -> None:
        BufferedSettings.parse(options, "run log store 'buffered'")
        super().__init__()
        self._runs: dict[str, dict[FragmentKey, Fragment]] = {}

    @property
    def location(self) -> str:
        """Where the logs lie, for messages."""
        return "memory"

    async def _open(self, stack: AsyncExitStack) -> None:
        pass

    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        run = self._runs.setdefault(run_id, {})
        for fragment in fragments:
            first = run[fragment.key].created_at if fragment.key in run else PROCESS_CLOCK.now()
            run[fragment.key] = replace(fragment, created_at=first)

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        run = self._runs.get(run_id, {})
        there = {fragment.key for fragment in fragments if fragment.key in run}
        await self._upsert(run_id, [fragment for fragment in fragments if fragment.key not in there])
        return there

    async def _read(self, run_id: str, key: FragmentKey) -> Fragment | None:
        return self._runs.get(run_id, {}).get(key)

    async def _scan(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment] | None = None
    ) -> Sequence[Fragment]:
        return [fragment for key, fragment in self._runs.get(run_id, {}).items() if selection.matches(key)]

    async def _modify(self, run_id: str, key: FragmentKey, change: Callable[[Fragment], Fragment]) -> None:
        run = self._runs.get(run_id, {})
        if key not in run:
            raise RunLogNotFoundError(run_id, self.location)
        run[key] = replace(change(run[key]), created_at=run[key].created_at)

    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        return [summary_of(run[HEADER], run_id) for run_id, run in self._runs.items() if HEADER in run]

    async def _delete(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
