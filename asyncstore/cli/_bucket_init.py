"""``asyncstore bucket init``: make a bucket ready, and tell what was done and what was left alone."""

from typing import Annotated, Any

import typer
from rich.text import Text

from asyncstore.bucket.initializing import BucketReport, SettingReport, State, init_bucket
from asyncstore.bucket.plan import WantedBucket
from asyncstore.cli._bucket_uses import (
    BucketArgument,
    EndpointOption,
    ProfileOption,
    RegionOption,
    admin_settings,
    buckets_of,
    the_bucket,
)
from asyncstore.cli._command import Session, command
from asyncstore.cli._errors import failures_code
from asyncstore.cli._output import clean

__all__ = ["SIGNS", "register"]

SIGNS = {
    State.FINE: ("✓", ""),
    State.TO_CHANGE: ("+", "cyan"),
    State.CHANGED: ("✓", "green"),
    State.KEPT: ("!", "yellow"),
    State.LEFT: ("·", "dim"),
    State.UNSUPPORTED: ("○", "yellow"),
    State.IGNORED: ("○", "yellow"),
    State.FAILED: ("✗", "bold red"),
}
_MOVES = {State.TO_CHANGE, State.CHANGED}
_EXPLAINED = {*_MOVES, State.KEPT}


def register(app: typer.Typer) -> None:
    """Add the command to ``asyncstore bucket``."""
    command(app, "init")(init)


async def init(
    session: Session,
    bucket: BucketArgument = "",
    region: RegionOption = "",
    origin: Annotated[
        list[str] | None,
        typer.Option("--origin", metavar="URL", help="Pages there may transfer by presigned URLs (CORS); repeatable."),
    ] = None,
    kms_key: Annotated[
        str, typer.Option("--kms-key", metavar="ARN", help="Encrypt with this KMS key, not with S3's own.")
    ] = "",
    expire_days: Annotated[
        int | None, typer.Option("--expire-days", metavar="N", help="Let S3 delete objects of --prefix after N days.")
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="PREFIX", help="What keys begin with, for --expire-days.")
    ] = "",
    profile: ProfileOption = "",
    endpoint_url: EndpointOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be changed.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also suspend versioning, replace encryption, change lifecycle rules, drop origins."
        ),
    ] = False,
) -> None:
    """
    Make a bucket ready: create it, block the public, encrypt, sweep up unfinished uploads; harmless to repeat.

    What is stricter already, and what others have set, stays without --force.
    """
    uses = await buckets_of(await session.configuration())
    bucket = the_bucket(bucket, uses)
    settings = admin_settings(bucket, uses, region=region, profile=profile, endpoint_url=endpoint_url)
    keys = [use.settings.kms_key_arn for use in uses if use.bucket == bucket and use.settings.kms_key_arn]
    wanted = WantedBucket(
        origins=tuple(origin or ()),
        kms_key=kms_key or next(iter(keys), ""),
        expire_days=expire_days,
        expire_prefix=prefix,
    )
    report = await init_bucket(bucket, settings, wanted, dry_run=dry_run, force=force)
    if session.as_json:
        session.output.json(_document(report))
    else:
        _tell(session, report)
    if report.failures:
        raise typer.Exit(failures_code(report.failures))


def _document(report: BucketReport) -> dict[str, Any]:
    return {
        "bucket": report.bucket,
        "region": report.region,
        "endpoint_url": report.endpoint,
        "existed": report.existed,
        "dry_run": report.dry_run,
        "changes": report.changes,
        "settings": [
            {
                "setting": setting.setting,
                "state": str(setting.state),
                "found": setting.found,
                "wanted": setting.wanted,
                "why": setting.why,
                "error": None if setting.error is None else str(setting.error),
            }
            for setting in report.settings
        ],
    }


def _tell(session: Session, report: BucketReport) -> None:
    rows = [_bucket_row(report), *(_row(setting) for setting in report.settings)]
    session.output.table(["SETTING", "STATE", "NOW"], rows)
    session.output.text("")
    for setting in report.settings:
        if setting.error is not None:
            session.output.show(clean(f"{setting.setting}: {setting.error}", "red"))
        elif setting.why and (setting.state in _EXPLAINED or setting.setting == "versioning"):
            session.output.show(clean(f"{setting.setting}: {setting.why}", "dim"))
    session.output.show(_summary(report))


def _bucket_row(report: BucketReport) -> tuple[str | Text, ...]:
    at = f"{report.region} at {report.endpoint}" if report.endpoint else report.region
    if report.existed:
        return "bucket", clean("✓ there"), at
    return "bucket", clean("+ to create", "cyan") if report.dry_run else clean("✓ created", "green"), at


def _row(setting: SettingReport) -> tuple[str | Text, ...]:
    sign, style = SIGNS[setting.state]
    now = setting.found
    if setting.state in _MOVES:
        now = f"{setting.found} → {setting.wanted}"
    elif setting.state is State.LEFT:
        now = f"{setting.found}; {setting.why}"
    return setting.setting, clean(f"{sign} {setting.state}", style), now


def _summary(report: BucketReport) -> Text:
    at = f"s3://{report.bucket}"
    if report.failures:
        return clean(f"✗ {at}: {_counted(len(report.failures), 'setting')} could not be read or changed", "bold red")
    if report.dry_run:
        todo = f"{_counted(report.changes, 'change')} to make" if report.changes else "there is nothing to change"
        return clean(f"{at}: {todo}; this was a dry run")
    lacking = sum(setting.state in {State.UNSUPPORTED, State.IGNORED} for setting in report.settings)
    but = f"; {_counted(lacking, 'setting')} this server cannot have" if lacking else ""
    if not report.changes:
        return clean(f"✓ {at} is ready, and was so before: nothing was changed{but}")
    return clean(f"✓ {at} is ready: {_counted(report.changes, 'change')} made{but}")


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"
