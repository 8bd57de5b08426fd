"""Resource lifetime, bounded concurrency, cleanup, retry, clock and files: knows nothing of storage or run logs."""
