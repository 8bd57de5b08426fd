from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from asyncstore._core.retry import NO_RETRY
from asyncstore.errors import AccessDeniedError, AsyncStoreError, InvalidValueError
from asyncstore.runlog.db._engine import Database
from asyncstore.runlog.db._rows import Row, RowKey
from asyncstore.runlog.db._schema import log_table
from asyncstore.runlog.db._writer import CoreWriter
from asyncstore.runlog.db.store import _committers

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(("error", "attempts"), [(AccessDeniedError("x"), 1), (InvalidValueError("x"), 15)])
async def test_only_what_one_write_may_be_to_blame_for_is_tried_again(error: AsyncStoreError, attempts: int) -> None:
    class Refusing(CoreWriter):
        sizes: ClassVar[list[int]] = []

        async def upsert(self, rows: Sequence[Row]) -> None:
            self.sizes.append(len(rows))
            raise error

    engine = create_async_engine("sqlite+aiosqlite:///never-opened.db")
    writer = Refusing(Database.borrowed(engine), log_table(), NO_RETRY)
    upserts, _ = _committers(writer)
    writes = [(Row(RowKey("run", "StepLog", f"{number}"), "{}"),) for number in range(8)]
    outcomes = await asyncio.gather(*map(upserts.submit, writes), return_exceptions=True)
    assert outcomes == [error] * 8
    assert len(writer.sizes) == attempts
