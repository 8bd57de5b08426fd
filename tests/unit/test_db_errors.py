"""What databases raise, and the family it is told by."""

from __future__ import annotations

import sqlite3
import ssl
from typing import Any

import asyncpg
import pytest

from asyncstore.errors import ConfigurationError, IntegrityError, InvalidValueError, UnavailableError
from asyncstore.runlog.db._errors import DatabaseEdge

NUMBER_TAKEN = "Key (pk)=(17) already exists."


def violation(**fields: Any) -> asyncpg.UniqueViolationError:
    error = asyncpg.UniqueViolationError("duplicate key value violates unique constraint")
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def sqlite_error(code: int, text: str = "x") -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


FAMILIES: list[tuple[Exception, type[Exception]]] = [
    (violation(detail=NUMBER_TAKEN, constraint_name="renamed"), ConfigurationError),
    (violation(detail="Schlüssel »(pk)=(17)« existiert bereits."), ConfigurationError),
    (violation(constraint_name="db_log_pkey"), ConfigurationError),
    (violation(detail="Key (attribute_value)=((pk)=(17)) already exists.", constraint_name="own"), InvalidValueError),
    (violation(detail="Key (md5(attribute_value))=(x) already exists."), InvalidValueError),
    (violation(constraint_name="one_of_each"), InvalidValueError),
    (violation(), InvalidValueError),
    (asyncpg.CheckViolationError("x"), InvalidValueError),
    (asyncpg.RaiseError("a trigger's words"), InvalidValueError),
    (asyncpg.ProgramLimitExceededError("x"), InvalidValueError),
    (asyncpg.DataCorruptedError("x"), IntegrityError),
    (asyncpg.IndexCorruptedError("x"), IntegrityError),
    (asyncpg.InternalServerError("x"), UnavailableError),
    (asyncpg.TooManyConnectionsError("x"), UnavailableError),
    (asyncpg.CannotConnectNowError("x"), UnavailableError),
    (asyncpg.QueryCanceledError("x"), UnavailableError),
    (ssl.SSLEOFError("x"), UnavailableError),
    (ssl.SSLZeroReturnError("x"), UnavailableError),
    (ssl.SSLCertVerificationError("x"), ConfigurationError),
    (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), UnavailableError),
    (sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), UnavailableError),
    (sqlite_error(sqlite3.SQLITE_CONSTRAINT_TRIGGER), InvalidValueError),
    (sqlite_error(sqlite3.SQLITE_CONSTRAINT_CHECK), InvalidValueError),
    (sqlite_error(sqlite3.SQLITE_TOOBIG), InvalidValueError),
    (sqlite_error(sqlite3.SQLITE_ERROR, "no such table: db_log"), ConfigurationError),
]


@pytest.mark.parametrize(("error", "family"), FAMILIES)
def test_what_drivers_raise_is_told_by_family(error: Exception, family: type[Exception]) -> None:
    assert type(DatabaseEdge("here").translate(error, "writing")) is family


def test_a_number_that_is_taken_says_what_to_do() -> None:
    told = DatabaseEdge("here").translate(violation(detail=NUMBER_TAKEN), "writing")
    assert "setval" in str(told)
