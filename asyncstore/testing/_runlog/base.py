"""What every chapter of the run-log contract stands on: the stores under test, and short ways to make parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import pytest_asyncio

from asyncstore.models import SUCCESS, BranchLog, StepLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from asyncstore.runlog.base import RunLogStore

__all__ = ["HOSTILE_NAMES", "RUN", "RunLogSuite", "branch", "step"]

RUN = "run"

HOSTILE_NAMES = (
    "train",
    "train-2",
    "lr",
    "lr_decay",
    "a.csv",
    "x/y",
    "a..b",
    ".",
    "..",
    "two words",
    " ",
    "%2F",
    "%",
    "~",
    "a~b",
    "Case",
    "case",
    "a\\b",
    "'; DROP TABLE db_log; --",
    "50%_off*[?]",
    "line\nbreak\ttab",
    "é",
    "e\u0301",
    "🙂",
    "nul",
    "run_log.json",
    ".asyncstore-temp",
    "n" * 900,
    "n" * 899 + "m",
    "é" * 450,
)
"""Names that have broken some store: prefixes of each other, separators, encodings, look-alikes, 900 bytes."""


def step(name: str, branch: str = "", **fields: Any) -> StepLog:
    """Return a step of that branch, ``""`` for the run itself; its status is SUCCESS unless given."""
    internal_name = f"{branch}.{name}" if branch else name
    return StepLog(name=name, internal_name=internal_name, **{"status": SUCCESS, **fields})


def branch(internal_name: str, **fields: Any) -> BranchLog:
    """Return a branch; its status is SUCCESS unless given."""
    return BranchLog(internal_name=internal_name, **{"status": SUCCESS, **fields})


class RunLogSuite:
    """The stores under test; see :class:`asyncstore.testing.RunLogStoreContract`."""

    shared: ClassVar[bool] = True
    secret: ClassVar[str] = ""

    @pytest.fixture
    def make_store(self) -> Callable[[], RunLogStore]:
        """Return what makes store objects, not yet opened, all on the same data, which is new for each test."""
        raise NotImplementedError("override the fixture make_store")

    @pytest_asyncio.fixture
    async def store(self, make_store: Callable[[], RunLogStore]) -> AsyncIterator[RunLogStore]:
        """Give an open store."""
        async with make_store() as store:
            yield store

    @pytest_asyncio.fixture
    async def another(self, store: RunLogStore, make_store: Callable[[], RunLogStore]) -> AsyncIterator[RunLogStore]:
        """Give a second open store on the same data, as another process would have it."""
        if not self.shared:
            yield store
            return
        async with make_store() as another:
            yield another
