"""
An S3 server in memory for tests and benchmarks: fast, atomic, counting, and faulty on demand.

It speaks what obstore, botocore and s5cmd need: buckets by path, objects with ranges and conditions, listings, copies,
multipart uploads with their pages and CRC32 checksums, tags, storage classes, and the headers of encryption (nothing is
encrypted). It does not check signatures, heeds no conditions on dates, knows no other checksums than Content-MD5 and
CRC32, and has no versions or ACLs.

By hand, ``python -m asyncstore.testing.s3_stub --port 9000 --bucket data`` serves on ``http://127.0.0.1:9000`` until
Ctrl-C; ``--help`` says how to set faults and behaviour, and how to read counts. In tests, :class:`S3Stub` runs on the
test's own event loop, and :func:`s3_stub_server` in a process of its own, on uvloop where it is installed.

Bodies are received where they stay and sent from there; parts of an upload become an object without being copied. What
costs most is the MD5 for the ETag, about 1.5 s per GiB: ``server.configure(**CHEAP)`` spares it and all checksums, and
``discards=True`` besides keeps no bytes, so that objects of any size need no memory and read as zeros.
"""

from __future__ import annotations

from asyncstore.testing.s3_stub._faults import Action, Fault
from asyncstore.testing.s3_stub._messages import CHEAP, Behaviour
from asyncstore.testing.s3_stub.process import StubServer, s3_stub_server
from asyncstore.testing.s3_stub.server import S3Stub

__all__ = ["CHEAP", "Action", "Behaviour", "Fault", "S3Stub", "StubServer", "s3_stub_server"]
