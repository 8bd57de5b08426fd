"""Run-log stores: one contract (:mod:`asyncstore.runlog.base`), one module for each layout."""
