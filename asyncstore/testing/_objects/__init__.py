"""The chapters of :class:`asyncstore.testing.ObjectStoreContract`."""
