"""``asyncstore bucket check``: try everything that asyncstore does with a bucket, and name what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncstore._core.access import Access
from asyncstore.bucket.check import check_bucket
from asyncstore.catalog._paths import normal_prefix
from asyncstore.cli._bucket_uses import (
    BucketArgument,
    BucketUse,
    EndpointOption,
    ProfileOption,
    RegionOption,
    admin_settings,
    reached,
    the_bucket,
    uses_of,
)
from asyncstore.cli._command import Session, command
from asyncstore.cli._findings import documents, findings_code, row, say_problems, show_remedies, summary
from asyncstore.objects._s3._bucket import check_bucket as check_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from asyncstore._core.findings import Finding

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``asyncstore bucket``."""
    command(app, "check", interrupted="the test object and its uploads were removed")(check)


async def check(
    session: Session,
    bucket: BucketArgument = "",
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="PREFIX", help="Where test objects are written, in place of configured.")
    ] = "",
    origin: Annotated[
        str, typer.Option("--origin", metavar="URL", help="Ask as a browser does whether pages there may transfer.")
    ] = "",
    region: RegionOption = "",
    profile: ProfileOption = "",
    endpoint_url: EndpointOption = "",
) -> None:
    """
    Write a small test file and remove it, then try each action once; say which permission or setting is missing.

    All stores of the configuration are checked, or the one of --store, as far as each may be read and written, and
    with its credentials. Nothing is left behind, except where deleting is what is missing.
    """
    if bucket:
        check_name(bucket)
    uses = await uses_of(session)
    named = the_bucket(bucket, uses) if bucket or not uses else ""
    at = {"region": region, "profile": profile, "endpoint_url": endpoint_url}
    places = [
        _place(use, normal_prefix(prefix) or use.prefix, at) for use in uses if not named or use.bucket == named
    ] or [BucketUse("", named, normal_prefix(prefix), admin_settings(named, uses, **at))]
    found = [(place, await _checked(place, origin)) for place in _distinct(places)]
    if session.as_json:
        session.output.json([_document(place, findings) for place, findings in found])
    else:
        for number, (place, findings) in enumerate(found):
            _tell(session, place, findings, first=not number)
    for place, findings in found:
        say_problems(session.output, place.location, findings)
    if code := findings_code(finding for _, findings in found for finding in findings):
        raise typer.Exit(code)


def _place(use: BucketUse, prefix: str, at: Mapping[str, str]) -> BucketUse:
    settings = reached(use.settings, **at) if any(at.values()) else use.settings
    return replace(use, prefix=prefix, settings=settings)


async def _checked(place: BucketUse, origin: str) -> list[Finding]:
    return await check_bucket(place.bucket, place.settings, prefix=place.prefix, origin=origin, access=place.access)


def _distinct(places: Sequence[BucketUse]) -> list[BucketUse]:
    """Leave out what would be checked twice, as a run log and a catalog side by side: all that may be done is tried."""
    found: dict[str, BucketUse] = {}
    for place in places:
        one, other = found.setdefault(place.place, place).access, place.access
        either = Access(one.allow_read or other.allow_read, one.allow_write or other.allow_write)
        found[place.place] = replace(place, access=either)
    return list(found.values())


def _document(place: BucketUse, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "bucket": place.bucket,
        "prefix": place.prefix,
        "region": place.settings.region,
        "endpoint_url": place.settings.endpoint,
        "ok": not any(finding.is_problem for finding in findings),
        "checks": documents(findings),
    }


def _tell(session: Session, place: BucketUse, findings: Sequence[Finding], *, first: bool) -> None:
    output = session.output
    blank = "" if first else "\n"
    output.text(f"{blank}{place.location}\n")
    output.table(["CHECK", "STATE", "DETAIL"], [row(finding) for finding in findings])
    output.text(f"\n{summary(findings)}")
    show_remedies(output, findings)
