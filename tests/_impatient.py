"""A store that gives up soon, for processes that are to be told that the database was away."""

from __future__ import annotations

from typing import Any

from asyncstore._core.retry import RetryPolicy
from asyncstore.runlog.db import DBRunLogStore

__all__ = ["ImpatientDBRunLogStore"]


class ImpatientDBRunLogStore(DBRunLogStore):
    """Tries twice."""

    def __init__(self, **options: Any) -> None:
        super().__init__(retry=RetryPolicy(attempts=2, initial_delay_s=0.05), **options)
