"""The contract of a run-log store, as tests."""

from __future__ import annotations

import pytest

from asyncstore.testing._runlog.concurrency import CancellationSuite, ConcurrencySuite
from asyncstore.testing._runlog.deleting import DeleteSuite
from asyncstore.testing._runlog.lifecycle import LifecycleSuite
from asyncstore.testing._runlog.listing import ListSuite
from asyncstore.testing._runlog.names import NameSuite
from asyncstore.testing._runlog.parameters import ParameterSuite, ValueSuite
from asyncstore.testing._runlog.parts import OrderSuite, PartSuite, StaleSuite
from asyncstore.testing._runlog.runs import RunSuite
from asyncstore.testing._runlog.watching import WatchSuite

__all__ = ["RunLogStoreContract"]


@pytest.mark.asyncio
class RunLogStoreContract(
    LifecycleSuite,
    RunSuite,
    DeleteSuite,
    NameSuite,
    PartSuite,
    StaleSuite,
    OrderSuite,
    ParameterSuite,
    ValueSuite,
    ConcurrencySuite,
    CancellationSuite,
    ListSuite,
    WatchSuite,
):
    """
    Every promise of :class:`asyncstore.runlog.base.RunLogStore`; a store that passes is a supported one.

    Subclass it and override the fixture ``make_store``, which returns a callable that makes store objects, not yet
    opened, all on the same data; the data must be new for each test::

        class TestMyStore(RunLogStoreContract):
            @pytest.fixture
            def make_store(self, tmp_path):
                return lambda: MyStore(folder=tmp_path)

    Attributes:
        shared: False for a store that no second object can see, such as one in memory.
        secret: a password that the store was made with; it must be seen nowhere.
    """
