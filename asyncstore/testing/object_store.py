"""The contract of an object store, as tests."""

from __future__ import annotations

import pytest

from asyncstore.testing._objects.conditions import ConditionSuite
from asyncstore.testing._objects.files import FileSuite
from asyncstore.testing._objects.verbs import DeleteSuite, ListSuite, VerbSuite

__all__ = ["ObjectStoreContract"]


@pytest.mark.asyncio
class ObjectStoreContract(VerbSuite, ListSuite, DeleteSuite, ConditionSuite, FileSuite):
    """
    Every promise of :class:`asyncstore.objects.base.ObjectStore`; a storage that passes is a supported one.

    Subclass it and override the fixture ``make_store``, which returns a callable that makes store objects, not yet
    opened, all on the same storage; it must be empty for each test. Conditions are tested as far as the storage says
    that it honours them.

    Attributes:
        shared: False for a store that no second object can see, such as one in memory.
        keeps_metadata: False for a storage that has no place for user metadata, such as a folder.
    """
