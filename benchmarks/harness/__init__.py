"""
What the benchmarks share.

:mod:`harness.work` and :mod:`harness.worker` need nothing but Python, for they also run in other tools' environments.
"""
