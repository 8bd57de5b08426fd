"""Looking at a bucket as a whole: its region and the server's time, and the settings that matter to asyncstore."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from asyncstore.bucket._check_objects import seen_answer
from asyncstore.bucket._check_verdict import Seen
from asyncstore.bucket.cors import check_origin, cors_document, cors_rules
from asyncstore.errors import ConfigurationError, CredentialsError
from asyncstore.objects._errors import from_s3_code

if TYPE_CHECKING:
    from asyncstore.aws.settings import AwsSettings
    from asyncstore.bucket._check_requests import Answer, Requests

__all__ = ["abort_days", "look_at_bucket", "look_at_cors", "look_at_lifecycle", "look_at_versioning"]

REGION_HEADER = "x-amz-bucket-region"
CLOCK_NOTE_S = 30
"""Clocks that differ by more are told of."""

METHODS = ("GET", "PUT", "POST")
"""What pages do with presigned URLs and forms."""

_ELSEWHERE = {301, 307, 400}


async def look_at_bucket(requests: Requests, bucket: str, settings: AwsSettings) -> tuple[Seen, Seen, str]:
    """
    Return what was seen of the region and of the clock, and the region that the bucket is in.

    Raises:
        ConfigurationError: there is no such bucket, or no S3 server.
        CredentialsError: the server does not accept the keys.
        UnavailableError: nothing answers.
    """
    answer = await requests.send("HEAD")
    ahead_s = requests.learn_time(answer)
    located = answer
    if answer.status not in {200, 404} or REGION_HEADER not in answer.headers:
        # A HEAD's refusal does not say why; this one's does, signed by the server's time.
        located = await requests.send("GET", query={"location": ""})
    _check_answer(answer, located, bucket, settings)
    found = answer.headers.get(REGION_HEADER) or located.headers.get(REGION_HEADER) or located.said("Region")
    if not found and located.ok and settings.endpoint is None:
        # The oldest region goes without a name.
        found = located.said("LocationConstraint") or "us-east-1"
    return _region(answer, found, settings), _clock(ahead_s), found


def _check_answer(answer: Answer, located: Answer, bucket: str, settings: AwsSettings) -> None:
    what = f"s3://{bucket}" + (f" at {settings.endpoint}" if settings.endpoint else "")
    if answer.status == 404 or located.code == "NoSuchBucket":
        raise from_s3_code("NoSuchBucket", 404, what)
    error = from_s3_code(located.code, located.status, what)
    if located.code and isinstance(error, CredentialsError):
        raise error
    if not answer.ok and not located.code and not located.ok and REGION_HEADER not in answer.headers:
        raise ConfigurationError(f"{what}: what answers there does not answer like S3: mend endpoint_url")


def _region(answer: Answer, found: str, settings: AwsSettings) -> Seen:
    if not found:
        return Seen("skipped", "the server does not say in which region the bucket is")
    if found == settings.region:
        return Seen("ok", found)
    if answer.status in _ELSEWHERE:
        return Seen("missing", f"the bucket is in {found}: set 'region: {found}' in place of {settings.region}")
    return Seen("ok", f"{found}, says the server, which takes what is signed for {settings.region} all the same")


def _clock(ahead_s: float | None) -> Seen:
    if ahead_s is None:
        return Seen("skipped", "the server does not say its time")
    apart = f"{abs(ahead_s):.0f} s"
    if abs(ahead_s) <= CLOCK_NOTE_S:
        return Seen("ok", f"{apart} apart")
    way = "behind" if ahead_s > 0 else "ahead of"
    return Seen("note", f"this machine's clock is {apart} {way} the server's, by which requests are signed: set it")


async def look_at_versioning(requests: Requests) -> Seen:
    """Return whether the bucket keeps what was replaced."""
    answer = await requests.send("GET", query={"versioning": ""})
    if not answer.ok:
        return _unread(answer, "s3:GetBucketVersioning")
    if b"Versioning" not in answer.body:
        return Seen("unsupported", "the server knows no versions")
    state = answer.said("Status").lower()
    if state == "enabled":
        return Seen("note", "on: each write of a run log leaves an old version, which is kept and billed")
    return Seen("ok", state or "off")


async def look_at_lifecycle(requests: Requests, bucket: str, prefix: str) -> Seen:
    """Return whether uploads that were begun and left are aborted one day."""
    answer = await requests.send("GET", query={"lifecycle": ""})
    advice = f"no rule aborts uploads that were left behind: 'asyncstore bucket init {bucket}' sets one"
    if answer.code == "NoSuchLifecycleConfiguration":
        return Seen("note", advice)
    if not answer.ok:
        return _unread(answer, "s3:GetLifecycleConfiguration")
    if b"LifecycleConfiguration" not in answer.body:
        return Seen("unsupported", "the server knows no rules: uploads that were left behind stay until they are swept")
    days = abort_days(answer.body, prefix)
    if days is None:
        return Seen("note", advice)
    return Seen("ok", f"uploads that were left behind are aborted after {days} {'day' if days == 1 else 'days'}")


async def look_at_cors(requests: Requests, bucket: str, key: str, origin: str) -> Seen:
    """Ask as a browser does whether pages of an origin may use presigned URLs."""
    refused = []
    for method in METHODS:
        headers = {"origin": origin, "access-control-request-method": method}
        answer = await requests.send("OPTIONS", key, headers=headers, signed=False)
        if not answer.ok and answer.status != 403:
            return Seen("unsupported", f"the server answers no preflight requests: {seen_answer(answer).detail}")
        if not _lets_in(answer, origin, method):
            refused.append(method)
    if not refused:
        return Seen("ok", f"{origin} may {', '.join(METHODS)}")
    rule = cors_document(cors_rules((check_origin(origin),)))
    remedy = f"'asyncstore bucket init {bucket} --origin {origin}' sets the rule that is missing"
    return Seen("missing", f"{origin} may not {', '.join(refused)}: {remedy}", setting=rule)


def _lets_in(answer: Answer, origin: str, method: str) -> bool:
    origins = answer.headers.get("access-control-allow-origin", "")
    methods = {name.strip().upper() for name in answer.headers.get("access-control-allow-methods", "").split(",")}
    return answer.ok and origins in {"*", origin} and bool(methods & {"*", method})


def _unread(answer: Answer, action: str) -> Seen:
    if answer.denied:
        return Seen("note", f"may not be read, which takes {action}; asyncstore does without")
    seen = seen_answer(answer)
    return Seen("unsupported", seen.detail) if seen.outcome == "failed" else seen


def abort_days(body: bytes, prefix: str) -> int | None:
    """Return after how many days the rules abort all uploads below a prefix, ``None`` if they do not."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        return None
    found = []
    for rule in root.iterfind("{*}Rule"):
        days = rule.findtext("{*}AbortIncompleteMultipartUpload/{*}DaysAfterInitiation") or ""
        start = rule.findtext("{*}Filter/{*}Prefix") or rule.findtext("{*}Prefix") or ""
        prefixes = rule.findall("{*}Filter/{*}Prefix")
        whole = rule.findall("{*}Filter/*") == prefixes
        if days.isdecimal() and rule.findtext("{*}Status") == "Enabled" and prefix.startswith(start) and whole:
            found.append(int(days))
    return min(found, default=None)
