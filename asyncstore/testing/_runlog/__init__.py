"""The chapters of :class:`asyncstore.testing.RunLogStoreContract`."""
