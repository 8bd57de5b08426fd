"""Object stores: bytes under keys, on S3, in a folder, in memory."""
