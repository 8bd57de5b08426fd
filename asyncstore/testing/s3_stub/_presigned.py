"""
Requests that carry their own signature: in the query of a URL, or over the policy of a form.

What a signature says is always checked: how long it is good for, which headers it covers, which conditions a policy
holds. The signature itself is, for the keys whose secrets are known (``Behaviour.secret_keys``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from calendar import timegm
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from asyncstore.testing.s3_stub._messages import Answer, Request, S3Error
from asyncstore.testing.s3_stub._xml import document, parse, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from asyncstore.testing.s3_stub._messages import Behaviour

__all__ = ["check_presigned", "is_form", "overridden", "post_object"]

ALGORITHM = "AWS4-HMAC-SHA256"
LONGEST_S = 7 * 24 * 3600
AHEAD_S = 15 * 60
"""How far a client's clock may be ahead."""

_OVERRIDES = ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires")
_PARAMETERS = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
_UNCONDITIONAL = {"policy", "x-amz-signature", "file"}
"""Fields of a form that its policy does not speak of."""
_AS_HEADERS = re.compile(
    r"x-amz-(?!algorithm|credential|date|signature|security-token).*|content-.*|cache-control|expires"
)


def check_presigned(behaviour: Behaviour, request: Request) -> None:
    """
    Check a request that is signed in its query, and let it look like any other.

    Raises:
        S3Error: it is not good for this, or not any more.
    """
    query = request.query
    if "authorization" in request.headers:
        raise S3Error(400, "InvalidArgument", "Only one auth mechanism allowed")
    lifetime = query.get("X-Amz-Expires", "")
    if query.get("X-Amz-Algorithm") != ALGORITHM or not all(name in query for name in _PARAMETERS):
        raise S3Error(400, "AuthorizationQueryParametersError", "Query-string authentication needs its parameters")
    if not lifetime.isdecimal() or not 1 <= int(lifetime) <= LONGEST_S:
        raise S3Error(400, "AuthorizationQueryParametersError", "X-Amz-Expires must be from 1 to 604800 seconds")
    begun, now = _seconds_of(query["X-Amz-Date"]), time.time()
    if begun > now + AHEAD_S:
        raise S3Error(403, "AccessDenied", "Request is not valid yet")
    if begun + int(lifetime) <= now:
        raise S3Error(403, "AccessDenied", "Request has expired")
    signed = query["X-Amz-SignedHeaders"].split(";")
    sent = {name for name in request.headers if name.startswith("x-amz-")}
    if "host" not in signed or not sent <= set(signed):
        raise S3Error(403, "AccessDenied", "There were headers present in the request which were not signed")
    if behaviour.secret_keys:
        _check_signature(
            behaviour, query["X-Amz-Credential"], _to_sign(request, signed), query.get("X-Amz-Signature", "")
        )
    _check_sha256(request)
    request.headers["authorization"] = f"{ALGORITHM} Credential={query['X-Amz-Credential']}"


def overridden(request: Request, answer: Answer) -> Answer:
    """Return the answer to a presigned read, with the headers that its URL says."""
    if answer.status not in (200, 206):
        return answer
    asked = {name: request.query.get(f"response-{name}") for name in _OVERRIDES}
    kept = {name: value for name, value in answer.headers.items() if not asked.get(name.lower())}
    answer.headers = kept | {name.title(): value for name, value in asked.items() if value}
    return answer


def is_form(request: Request) -> bool:
    """Tell whether a request to a bucket is an upload by a form."""
    return request.method == "POST" and request.headers.get("content-type", "").startswith("multipart/form-data")


def post_object(behaviour: Behaviour, request: Request, perform: Callable[[Request], Answer]) -> Answer:
    """
    Store what a form uploads, if its policy says so.

    Args:
        behaviour: whose signatures are checked.
        request: the form.
        perform: does the PutObject that the form amounts to.

    Raises:
        S3Error: the form is none, or its policy says something else.
    """
    form = _Form.read(request)
    fields = form.fields
    fields["key"] = fields.get("key", "").replace("${filename}", form.filename)
    if not fields["key"]:
        raise S3Error(400, "InvalidArgument", "Bucket POST must contain a field named 'key'")
    if "policy" not in fields:
        raise S3Error(403, "AccessDenied", "Access Denied")
    if fields.get("x-amz-algorithm") != ALGORITHM:
        raise S3Error(400, "InvalidArgument", "x-amz-algorithm must be AWS4-HMAC-SHA256")
    credential = fields.get("x-amz-credential", "")
    if behaviour.secret_keys:
        _check_signature(behaviour, credential, fields["policy"], fields.get("x-amz-signature", ""))
    _check_policy(_policy_of(fields["policy"]), {**fields, "bucket": request.bucket}, len(form.content))
    put = Request("PUT", f"/{request.bucket}/{fields['key']}", {}, _headers_of(fields), form.content)
    put.operation = "PutObject"
    put.headers["authorization"] = f"{ALGORITHM} Credential={credential}"
    answer = perform(put)
    if answer.status != 200:
        return answer
    status = {"200": 200, "201": 201}.get(fields.get("success_action_status", ""), 204)
    if status != 201:
        return Answer(status, b"", answer.headers)
    told = {"Location": put.path, "Bucket": request.bucket, "Key": fields["key"], "ETag": answer.headers["ETag"]}
    created = document("PostResponse", "".join(tag(name, value) for name, value in told.items()))
    return Answer(201, created.body, {**created.headers, "ETag": answer.headers["ETag"]})


@dataclass(slots=True)
class _Form:
    fields: dict[str, str]
    """Under names in lower case; what comes after the file does not count."""
    filename: str
    content: bytes

    @classmethod
    def read(cls, request: Request) -> _Form:
        found = re.search(r'boundary="?([^";]+)"?', request.headers["content-type"])
        if found is None:
            raise S3Error(400, "MalformedPOSTRequest", "The body of your POST request is not multipart/form-data")
        fields: dict[str, str] = {}
        for head, content in _parts(bytes(request.content), found[1].encode()):
            name = re.search(r'[; ]name="([^"]*)"', head)
            if name is None:
                raise S3Error(400, "MalformedPOSTRequest", "A field has no name")
            if name[1].lower() == "file":
                filename = re.search(r'filename="([^"]*)"', head)
                # Browsers may send a path; S3 takes what is after the last separator.
                return cls(fields, re.split(r"[/\\]", filename[1])[-1] if filename else "", content)
            fields[name[1].lower()] = content.decode()
        raise S3Error(400, "InvalidArgument", "POST requires exactly one file upload per request.")


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[str, bytes]]:
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:]:
        if part.startswith(b"--"):
            return
        head, separator, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not separator:
            raise S3Error(400, "MalformedPOSTRequest", "A field has no end of its head")
        yield head.decode(), content


def _headers_of(fields: Mapping[str, str]) -> dict[str, str]:
    headers = {name: value for name, value in fields.items() if _AS_HEADERS.fullmatch(name)}
    if "tagging" in fields:
        tags = parse(fields["tagging"].encode(), "{*}TagSet/{*}Tag")
        headers["x-amz-tagging"] = urlencode([(child("Key"), child("Value")) for child in tags], quote_via=quote)
    return headers


def _policy_of(coded: str) -> dict[str, Any]:
    try:
        found = json.loads(base64.b64decode(coded, validate=True))
        expiration, conditions = found["expiration"], found["conditions"]
        return {"expiration": timegm(time.strptime(expiration[:19], "%Y-%m-%dT%H:%M:%S")), "conditions": conditions}
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise S3Error(400, "InvalidPolicyDocument", "The content of the form does not meet the conditions") from error


def _check_policy(policy: Mapping[str, Any], fields: Mapping[str, str], size_bytes: int) -> None:
    if policy["expiration"] <= time.time():
        raise S3Error(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
    spoken_of: set[str] = set()
    for condition in policy["conditions"]:
        if isinstance(condition, dict):
            checks: list[list[Any]] = [["eq", f"${name}", value] for name, value in condition.items()]
        elif condition[0] == "content-length-range":
            if size_bytes > condition[2]:
                raise S3Error(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
            if size_bytes < condition[1]:
                raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
            continue
        else:
            checks = [condition]
        for how, what, wanted in checks:
            name = what.removeprefix("$").lower()
            spoken_of.add(name)
            if not _meets(how, fields.get(name), wanted, listed=name == "content-type"):
                failed = f"Policy Condition failed: {_plain(how)} ${_plain(name)}"
                raise S3Error(403, "AccessDenied", f"Invalid according to Policy: {failed}")
    extra = sorted(name for name in fields.keys() - spoken_of - _UNCONDITIONAL if not name.startswith("x-ignore-"))
    if extra:
        raise S3Error(403, "AccessDenied", f"Invalid according to Policy: Extra input fields: {_plain(extra[0])}")


def _meets(how: str, given: str | None, wanted: str, *, listed: bool) -> bool:
    if given is None:
        return False
    if how == "eq":
        return given == wanted
    # Of a list of content types, all must.
    return all(one.strip().startswith(wanted) for one in (given.split(",") if listed else [given]))


def _plain(text: str) -> str:
    """Return a client's text as a message can hold it."""
    return re.sub(r"[^\w-]", "?", text)


def _to_sign(request: Request, signed: list[str]) -> str:
    query = sorted((name, value) for name, value in request.query.items() if name != "X-Amz-Signature")
    asked = urlencode(query, quote_via=quote, safe="-_.~")
    lines = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed)
    path = quote(request.path, safe="/~")
    canonical = f"{request.method}\n{path}\n{asked}\n{lines}\n{';'.join(signed)}\nUNSIGNED-PAYLOAD"
    scope = request.query["X-Amz-Credential"].partition("/")[2]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f"{ALGORITHM}\n{request.query['X-Amz-Date']}\n{scope}\n{digest}"


def _check_signature(behaviour: Behaviour, credential: str, to_sign: str, given: str) -> None:
    access_key, *scope = credential.split("/")
    secret = behaviour.secret_keys.get(access_key)
    if secret is None:
        raise S3Error(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records")
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), given):
        raise S3Error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")


def _check_sha256(request: Request) -> None:
    wanted = request.headers.get("x-amz-checksum-sha256")
    if wanted is None or request.method != "PUT":
        return
    digest = hashlib.sha256()
    for block in request.content.blocks():
        digest.update(block)
    if base64.b64encode(digest.digest()).decode() != wanted:
        raise S3Error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.")


def _seconds_of(stamp: str) -> int:
    try:
        return timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError as error:
        raise S3Error(400, "AuthorizationQueryParametersError", "X-Amz-Date must be in ISO 8601") from error
