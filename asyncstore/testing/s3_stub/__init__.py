"""
An S3 server in memory for tests and benchmarks: fast, atomic, counting, and faulty on demand.

It speaks what obstore, botocore and s5cmd need: buckets by path, objects with ranges and conditions, listings, copies,
multipart uploads. It does not check signatures, heeds no conditions on dates, returns no checksums but ETags, lists
parts and uploads on one page, and has no versions, ACLs, tags or encryption.
"""

from __future__ import annotations

from asyncstore.testing.s3_stub._faults import Action, Fault
from asyncstore.testing.s3_stub._messages import Behaviour
from asyncstore.testing.s3_stub.process import StubServer, s3_stub_server
from asyncstore.testing.s3_stub.server import S3Stub

__all__ = ["Action", "Behaviour", "Fault", "S3Stub", "StubServer", "s3_stub_server"]
