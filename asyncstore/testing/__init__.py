"""
Contract suites: subclass one, say how a store is made, and pytest checks that it keeps every promise.

Needs pytest and pytest-asyncio. Real servers to run against are in :mod:`asyncstore.testing.servers` and
:mod:`asyncstore.testing.postgres`.
"""

from __future__ import annotations

import pytest

# Before they are imported, or a failing assert would not say what it compared.
pytest.register_assert_rewrite(
    "asyncstore.testing._objects",
    "asyncstore.testing._runlog",
    "asyncstore.testing.catalog",
    "asyncstore.testing.object_store",
    "asyncstore.testing.run_log_store",
)

from asyncstore.testing.catalog import CatalogContract  # noqa: E402
from asyncstore.testing.object_store import ObjectStoreContract  # noqa: E402
from asyncstore.testing.run_log_store import RunLogStoreContract  # noqa: E402

__all__ = ["CatalogContract", "ObjectStoreContract", "RunLogStoreContract"]
