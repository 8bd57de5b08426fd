"""From a request to the operation of S3 that it asks for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from asyncstore.testing.s3_stub import _buckets, _listing, _multipart, _multipart_listing, _objects, _tagging
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._permissions import check_policy
from asyncstore.testing.s3_stub._presigned import check_presigned, is_form, overridden, post_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from asyncstore.testing.s3_stub._storage import Storage

    Verb: TypeAlias = Callable[[Storage, Behaviour, Request], Answer]

__all__ = ["name_operation", "perform"]

_OBJECT = {
    "PUT": "PutObject",
    "GET": "GetObject",
    "HEAD": "HeadObject",
    "DELETE": "DeleteObject",
    "PUT copy": "CopyObject",
    "POST uploads": "CreateMultipartUpload",
    "PUT uploadId": "UploadPart",
    "PUT uploadId copy": "UploadPartCopy",
    "POST uploadId": "CompleteMultipartUpload",
    "DELETE uploadId": "AbortMultipartUpload",
    "GET uploadId": "ListParts",
    "GET tagging": "GetObjectTagging",
    "PUT tagging": "PutObjectTagging",
    "DELETE tagging": "DeleteObjectTagging",
}
_BUCKET = {
    "PUT": "CreateBucket",
    "HEAD": "HeadBucket",
    "DELETE": "DeleteBucket",
    "GET": "ListObjects",
    "GET list-type": "ListObjectsV2",
    "GET location": "GetBucketLocation",
    "GET versioning": "GetBucketVersioning",
    "GET cors": "GetBucketCors",
    "GET lifecycle": "GetBucketLifecycleConfiguration",
    "GET uploads": "ListMultipartUploads",
    "POST delete": "DeleteObjects",
}
_KNOWN_QUERIES = (
    "uploadId",
    "uploads",
    "list-type",
    "location",
    "versioning",
    "cors",
    "lifecycle",
    "delete",
    "tagging",
)
_REFUSED_QUERIES = {
    "acl",
    "encryption",
    "object-lock",
    "policy",
    "retention",
    "versions",
}

_VERBS: Mapping[str, Verb] = {
    "ListBuckets": _buckets.list_all,
    "CreateBucket": _buckets.create,
    "HeadBucket": _buckets.head,
    "DeleteBucket": _buckets.delete,
    "GetBucketLocation": _buckets.location,
    "GetBucketVersioning": _buckets.versioning,
    "GetBucketCors": _buckets.cors,
    "GetBucketLifecycleConfiguration": _buckets.lifecycle,
    "DeleteObjects": _buckets.delete_objects,
    "ListObjects": _listing.list_objects,
    "ListObjectsV2": _listing.list_objects_v2,
    "PutObject": _objects.put_object,
    "GetObject": _objects.get_object,
    "HeadObject": _objects.get_object,
    "DeleteObject": _objects.delete_object,
    "CopyObject": _objects.copy_object,
    "CreateMultipartUpload": _multipart.create,
    "UploadPart": _multipart.upload_part,
    "UploadPartCopy": _multipart.upload_part_copy,
    "CompleteMultipartUpload": _multipart.complete,
    "AbortMultipartUpload": _multipart.abort,
    "ListParts": _multipart_listing.list_parts,
    "ListMultipartUploads": _multipart_listing.list_uploads,
    "GetObjectTagging": _tagging.get_tags,
    "PutObjectTagging": _tagging.put_tags,
    "DeleteObjectTagging": _tagging.delete_tags,
}


def name_operation(request: Request) -> str:
    """Return the name that S3 has for what is asked, or ``Unknown``."""
    if not request.bucket:
        return "ListBuckets" if request.method == "GET" else "Unknown"
    asked = request.method
    if request.query:
        if not _REFUSED_QUERIES.isdisjoint(request.query):
            return "Unknown"
        asked = " ".join([asked, *(name for name in _KNOWN_QUERIES if name in request.query)])
    if request.key and "x-amz-copy-source" in request.headers:
        asked += " copy"
    if asked == "POST" and not request.key and is_form(request):
        return "PostObject"
    return (_OBJECT if request.key else _BUCKET).get(asked, "Unknown")


def perform(storage: Storage, behaviour: Behaviour, request: Request) -> Answer:
    """Do what is asked, in one step, and return the answer; errors are answers too."""
    try:
        if request.operation == "PostObject":
            return post_object(behaviour, request, lambda put: perform(storage, behaviour, put))
        presigned = "X-Amz-Signature" in request.query
        if presigned:
            check_presigned(behaviour, request)
        if behaviour.denied or behaviour.read_only or behaviour.denied_operations or behaviour.writable:
            _check_access(behaviour, request)
        if behaviour.policies:
            check_policy(behaviour.policies, request, storage)
        verb = _VERBS.get(request.operation)
        if verb is None:
            raise S3Error(501, "NotImplemented", "This stub does not know that operation")
        answer = verb(storage, behaviour, request)
        return overridden(request, answer) if presigned else answer
    except S3Error as error:
        return error.answer


def _check_access(behaviour: Behaviour, request: Request) -> None:
    asker = request.access_key
    writes = not request.operation.startswith(("Get", "Head", "List"))
    misplaced = writes and request.key and not re.search(behaviour.writable, request.key)
    refused = asker in behaviour.denied or (writes and asker in behaviour.read_only)
    if refused or misplaced or request.operation in behaviour.denied_operations:
        raise S3Error(403, "AccessDenied", "Access Denied")
