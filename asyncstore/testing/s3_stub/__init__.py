"""
An S3 server in memory for tests and benchmarks: fast, atomic, counting, and faulty on demand.

It speaks what obstore, botocore and s5cmd need: buckets by path, objects with ranges and conditions, listings, copies,
multipart uploads with their pages and CRC32 checksums, tags, storage classes, and the headers of encryption (nothing is
encrypted). Presigned URLs and forms of browsers are good for what they say and nothing else, and must be signed by the
keys that it is told, if any; other signatures are not checked. It heeds no conditions on dates, knows no checksums but
Content-MD5, CRC32 and, by presigned URLs, SHA-256, and has no versions or ACLs.

Told so by ``policies``, it allows what IAM policy documents allow, and nothing else: action by action and resource by
resource, as AWS decides it.

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
