"""Verbs on buckets, and the deletion of many objects at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._permissions import deletable
from asyncstore.testing.s3_stub._storage import BucketContent
from asyncstore.testing.s3_stub._xml import document, iso_date, parse, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._storage import Storage

__all__ = ["cors", "create", "delete", "delete_objects", "head", "lifecycle", "list_all", "location", "versioning"]

DELETE_LIMIT = 1000
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def list_all(storage: Storage, _: Behaviour, __: Request) -> Answer:
    """List all buckets."""
    since = tag("CreationDate", iso_date(0))
    listed = [f"<Bucket>{tag('Name', name)}{since}</Bucket>" for name in sorted(storage.buckets)]
    return document("ListAllMyBucketsResult", f"<Buckets>{''.join(listed)}</Buckets>")


def create(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Make a bucket."""
    if not _NAME.fullmatch(request.bucket):
        raise S3Error(400, "InvalidBucketName", "The specified bucket is not valid.")
    if request.bucket in storage.buckets:
        raise S3Error(409, "BucketAlreadyOwnedByYou", "The bucket exists, and you own it.")
    storage.buckets[request.bucket] = BucketContent()
    return Answer(200, b"", {"Location": f"/{request.bucket}"})


def head(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Tell whether a bucket exists."""
    storage.bucket(request.bucket)
    return Answer()


def delete(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Delete an empty bucket."""
    if storage.bucket(request.bucket).objects:
        raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.")
    del storage.buckets[request.bucket]
    return Answer(204)


def location(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Tell a bucket's region: the one that goes without a name."""
    storage.bucket(request.bucket)
    return document("LocationConstraint", "")


def versioning(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Tell that a bucket keeps no versions."""
    storage.bucket(request.bucket)
    return document("VersioningConfiguration", "")


def cors(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Tell that a bucket lets no web pages in."""
    storage.bucket(request.bucket)
    raise S3Error(404, "NoSuchCORSConfiguration", "The CORS configuration does not exist")


def lifecycle(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Tell that a bucket has no lifecycle rules."""
    storage.bucket(request.bucket)
    raise S3Error(404, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")


def delete_objects(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Delete up to 1,000 objects, of which each may be denied by itself."""
    bucket = storage.bucket(request.bucket)
    keys = [child("Key") for child in parse(bytes(request.body), "{*}Object")]
    if not 0 < len(keys) <= DELETE_LIMIT:
        raise S3Error(400, "MalformedXML", "Between 1 and 1000 keys are needed")
    told = []
    for key in keys:
        if deletable(behaviour, request, key):
            bucket.delete(key)
            told.append(f"<Deleted>{tag('Key', key)}</Deleted>")
        else:
            told.append(f"<Error>{tag('Key', key)}<Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    return document("DeleteResult", "".join(told))
