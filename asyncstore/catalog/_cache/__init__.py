"""What is remembered between transfers and processes: digests of files and of objects, in a file of SQLite."""
