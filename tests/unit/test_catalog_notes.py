"""Notes of a transfer: written while it goes on, and none is lost however it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from asyncstore.catalog._moving._notes import PORTION, Notes

if TYPE_CHECKING:
    from collections.abc import Sequence


class Book:
    """Where notes are written."""

    def __init__(self) -> None:
        self.portions: list[list[int]] = []
        self.written = asyncio.Event()

    async def write(self, notes: Sequence[int]) -> None:
        self.portions.append(list(notes))
        self.written.set()

    @property
    def notes(self) -> list[int]:
        return [note for portion in self.portions for note in portion]


async def test_a_portion_is_written_meanwhile_and_the_rest_in_the_end() -> None:
    book = Book()
    notes = Notes(book.write)

    async def work() -> None:
        for number in range(PORTION):
            notes.add(number)
        await book.written.wait()
        notes.add(PORTION)
        assert book.notes == list(range(PORTION))

    await notes.during(work)
    assert book.portions == [list(range(PORTION)), [PORTION]]


async def test_nothing_is_written_where_there_is_nothing() -> None:
    book = Book()

    async def work() -> None:
        pass

    await Notes(book.write).during(work)
    assert book.portions == []


async def test_what_was_noted_before_a_failure_is_written() -> None:
    book = Book()
    notes = Notes(book.write)

    async def work() -> None:
        notes.add(1)
        raise ValueError

    with pytest.raises(ValueError):
        await notes.during(work)
    assert book.notes == [1]


async def test_what_was_noted_before_a_cancellation_is_written() -> None:
    book = Book()
    notes = Notes(book.write)
    begun = asyncio.Event()

    async def work() -> None:
        notes.add(1)
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(notes.during(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert book.notes == [1]
