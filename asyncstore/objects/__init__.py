"""
Object stores: bytes under keys, on S3, in a folder, in memory.

A store is a module here. What S3 takes beyond that has rooms of its own: talking to a server (``_s3``, over ``_http``),
large objects in parts (``_large``) and listings (``_listing``).
"""
