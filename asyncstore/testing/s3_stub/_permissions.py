"""
Which permissions a request needs, as AWS documents and does it, and what is answered where one is missing. No I/O.

A missing key is told from a forbidden one only to who may list the bucket with that key as its prefix: without
``s3:ListBucket``, 403 takes the place of 404. The condition key ``s3:prefix`` exists in that question and in listings
of objects, and nowhere else: not for HeadBucket, and not for ListMultipartUploads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from asyncstore.testing.s3_stub._messages import S3Error
from asyncstore.testing.s3_stub._objects import source_name
from asyncstore.testing.s3_stub._policy import Permission, policy_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from asyncstore.testing.s3_stub._messages import Behaviour, Request
    from asyncstore.testing.s3_stub._policy import Policy
    from asyncstore.testing.s3_stub._storage import Storage, StoredObject

__all__ = ["check_policy", "deletable", "permissions"]

_ON_BUCKETS = {
    "CreateBucket": "s3:CreateBucket",
    "HeadBucket": "s3:ListBucket",
    "DeleteBucket": "s3:DeleteBucket",
    "GetBucketLocation": "s3:GetBucketLocation",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetBucketCors": "s3:GetBucketCORS",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
}
_ON_OBJECTS = {
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListParts": "s3:ListMultipartUploadParts",
    "GetObjectTagging": "s3:GetObjectTagging",
    "PutObjectTagging": "s3:PutObjectTagging",
    "DeleteObjectTagging": "s3:DeleteObjectTagging",
}
_CREATING = {"PutObject", "CopyObject", "CreateMultipartUpload"}
_READING = {"GetObject", "HeadObject"}
_OF_PARTS = {"UploadPart", "UploadPartCopy", "CompleteMultipartUpload"}
_COPYING = {"CopyObject", "UploadPartCopy"}

KMS_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
_SCOPE = re.compile(r"Credential=[^/,]*/\d{8}/([^/]+)/")


def check_policy(policies: Mapping[str, object], request: Request, storage: Storage) -> None:
    """
    Check that who asks may have what it asks for.

    Raises:
        S3Error: it may not.
        ValueError: a policy is none.
    """
    policy = policy_for(policies, request.access_key)
    if policy is not None and not all(policy.allows(wanted) for wanted in permissions(request, storage)):
        raise S3Error(403, "AccessDenied", "Access Denied")


def deletable(behaviour: Behaviour, request: Request, key: str) -> bool:
    """Tell whether who asks may delete one object of several."""
    policy: Policy | None = policy_for(behaviour.policies, request.access_key) if behaviour.policies else None
    return policy is None or policy.allows(Permission("s3:DeleteObject", _arn(request.bucket, key)))


def permissions(request: Request, storage: Storage) -> Iterator[Permission]:
    """Yield those that a request needs; none for what is decided key by key, or not known at all."""
    operation = request.operation
    if operation == "ListBuckets":
        yield Permission("s3:ListAllMyBuckets", "arn:aws:s3:::*")
    elif operation in _ON_BUCKETS:
        yield Permission(_ON_BUCKETS[operation], _arn(request.bucket), _listing_context(request))
    elif operation in _ON_OBJECTS:
        yield Permission(_ON_OBJECTS[operation], _arn(request.bucket, request.key))
        yield from _about_source(request, storage)
        yield from _about_target(request, storage)


def _listing_context(request: Request) -> dict[str, str]:
    if not request.operation.startswith("ListObjects"):
        return {}
    return {f"s3:{name}": request.query[name] for name in ("prefix", "delimiter", "max-keys") if name in request.query}


def _about_source(request: Request, storage: Storage) -> Iterator[Permission]:
    """Yield what reading needs: of the object that is asked for, or copied."""
    if request.operation in _COPYING:
        bucket, key = source_name(request)
        yield Permission("s3:GetObject", _arn(bucket, key))
    elif request.operation in _READING:
        bucket, key = request.bucket, request.key
    else:
        return
    found = _find(storage, bucket, key)
    if found is None:
        yield Permission("s3:ListBucket", _arn(bucket), {"s3:prefix": key})
        return
    if request.operation != "HeadObject":
        yield from _with_key("kms:Decrypt", found.description.options.get(KMS_KEY, ""), request)
    if request.operation == "CopyObject" and found.description.tags and not _replaces_tags(request):
        yield Permission("s3:GetObjectTagging", _arn(bucket, key))
        yield Permission("s3:PutObjectTagging", _arn(request.bucket, request.key))


def _about_target(request: Request, storage: Storage) -> Iterator[Permission]:
    """Yield what writing needs beside the leave to write."""
    arn = _arn(request.bucket, request.key)
    if request.operation in _CREATING:
        if "x-amz-tagging" in request.headers and (request.operation != "CopyObject" or _replaces_tags(request)):
            yield Permission("s3:PutObjectTagging", arn)
        yield from _with_key("kms:GenerateDataKey", request.headers.get(KMS_KEY, ""), request)
    elif request.operation in _OF_PARTS:
        content = storage.buckets.get(request.bucket)
        upload = content.uploads.get(request.query.get("uploadId", "")) if content else None
        if upload is not None:
            yield from _with_key("kms:Decrypt", upload.description.options.get(KMS_KEY, ""), request)
    if "if-match" in request.headers and request.operation in {"PutObject", "CompleteMultipartUpload"}:
        # Whether it matches tells something of the object that is there.
        yield Permission("s3:GetObject", arn)


def _with_key(action: str, key: str, request: Request) -> Iterator[Permission]:
    if not key:
        return
    scope = _SCOPE.search(request.headers.get("authorization", ""))
    context = {"kms:ViaService": f"s3.{scope[1]}.amazonaws.com"} if scope else {}
    owner, is_alias, name = key.partition(":alias/")
    if is_alias:
        # The permission is for the key behind it, whatever that is.
        key, context["kms:ResourceAliases"] = f"{owner}:key/{uuid5(NAMESPACE_URL, name)}", f"alias/{name}"
    yield Permission(action, key, context)


def _replaces_tags(request: Request) -> bool:
    return request.headers.get("x-amz-tagging-directive", "").upper() == "REPLACE"


def _find(storage: Storage, bucket: str, key: str) -> StoredObject | None:
    content = storage.buckets.get(bucket)
    return None if content is None else content.objects.get(key)


def _arn(bucket: str, key: str | None = None) -> str:
    return f"arn:aws:s3:::{bucket}" if key is None else f"arn:aws:s3:::{bucket}/{key}"
