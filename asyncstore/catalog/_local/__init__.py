"""The compute data folder: what is in it, and how its files are read, written and hashed."""
