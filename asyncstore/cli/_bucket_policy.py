"""``asyncstore bucket policy``: print what a configuration needs to be granted, or grant it through IAM."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

import typer

from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket.applying import caller, find_user
from asyncstore.bucket.cors import check_origin, cors_document, cors_xml
from asyncstore.bucket.documents import ACCOUNT_PLACEHOLDER, USER_PLACEHOLDER, BucketAccess, Principal, partition_of
from asyncstore.bucket.grants import BucketGrants, check_account, check_user, grants_of, role_arn_of
from asyncstore.bucket.rendering import as_aws_cli, as_terraform
from asyncstore.catalog._paths import normal_prefix
from asyncstore.cli._bucket_grant import grant
from asyncstore.cli._bucket_uses import (
    BucketArgument,
    EndpointOption,
    ProfileOption,
    RegionOption,
    accesses_of,
    admin_settings,
    the_bucket,
    uses_of,
)
from asyncstore.cli._command import Session, command
from asyncstore.errors import AsyncStoreError, ConfigurationError
from asyncstore.objects._s3._bucket import check_bucket as check_name

__all__ = ["register"]

FORMATS = ("json", "terraform", "cli")

SECTIONS = (
    "user-policy",
    "role-policy",
    "role-trust",
    "multipart-role-policy",
    "multipart-role-trust",
    "cors",
    "cors-xml",
)
_OF_KEY = {"role_arn": "role", "multipart_upload_role_arn": "multipart-role"}

Note: TypeAlias = tuple[str, str]
"""What people should know if a text has that in it: what it has, and what to know."""


def register(app: typer.Typer) -> None:
    """Add the command to ``asyncstore bucket``."""
    command(app, "policy")(policy)


@dataclass(frozen=True, slots=True)
class Section:
    """One document, as text."""

    kind: str
    title: str
    text: str


def policy(
    session: Session,
    bucket: BucketArgument = "",
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="json, terraform or cli (aws).")] = "json",
    only: Annotated[
        str, typer.Option("--only", metavar="DOCUMENT", help=f"Print one kind of document: {', '.join(SECTIONS)}.")
    ] = "",
    full_access: Annotated[
        bool, typer.Option("--full-access", help="All of S3 (s3:*) on the bucket, not just what is needed.")
    ] = False,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="The IAM user whose keys the configuration has.")
    ] = "",
    account: Annotated[
        str, typer.Option("--account", metavar="NUMBER", help="The AWS account; without it, STS is asked if need be.")
    ] = "",
    origin: Annotated[
        list[str] | None, typer.Option("--origin", metavar="URL", help="Pages there may transfer (CORS); repeatable.")
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--prefix", metavar="PREFIX", help="What keys begin with, in place of the configured ones; repeatable."
        ),
    ] = None,
    multipart_role: Annotated[
        str, typer.Option("--multipart-role", metavar="NAME", help="A role for uploads in parts, by name or ARN.")
    ] = "",
    region: RegionOption = "",
    profile: ProfileOption = "",
    endpoint_url: EndpointOption = "",
    apply: Annotated[bool, typer.Option("--apply", help="Grant it: make the policy and the roles in IAM.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --apply: only show what would be changed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --apply: do not ask.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="With --apply: take away what else such policies grant; ask no more of a role's trust."
        ),
    ] = False,
) -> None:
    """
    Print the policies, trust relationships and CORS rules that the configuration needs, ready to paste.

    They grant what all stores of the configuration use, or the one of --store, and nothing else. Changes nothing
    without --apply; what policies of the same names granted before then stays, unless --force is given.
    """
    if form not in FORMATS:
        raise ConfigurationError(f"--format {form!r} is unknown: choose one of {', '.join(FORMATS)}")
    if only and only not in SECTIONS:
        raise ConfigurationError(f"--only {only!r} is unknown: choose one of {', '.join(SECTIONS)}")
    if only and form != "json":
        raise ConfigurationError(f"--only chooses among documents of JSON: leave out --format {form}, or --only")
    if apply and not user:
        raise ConfigurationError("say to whom it is granted: --user NAME, the user whose keys the configuration has")
    asked = _Asked(
        bucket,
        tuple(map(normal_prefix, prefix or ())),
        multipart_role,
        check_user(user) if user else "",
        check_account(account) if account else "",
        tuple(map(check_origin, origin or ())),
    )
    if bucket:
        check_name(bucket)
    at = {"region": region, "profile": profile, "endpoint_url": endpoint_url}
    # Nothing is open while the question stands, however long that takes.
    grants, settings, notes = asyncio.run(_collect(session, asked, at, full_access=full_access, exists=apply))
    if apply:
        grant(session, grants, settings, dry_run=dry_run, yes=yes, force=force)
        return
    text = _text(session, grants, form, only)
    if session.as_json:
        session.output.json_text(text)
    else:
        session.output.text(text)
    for sign, note in notes:
        if sign in text:
            session.output.note(note)


@dataclass(frozen=True, slots=True)
class _Asked:
    bucket: str
    prefixes: tuple[str, ...]
    multipart_role: str
    user: str
    account: str
    origins: tuple[str, ...]


async def _collect(
    session: Session, asked: _Asked, at: dict[str, str], *, full_access: bool, exists: bool
) -> tuple[list[BucketGrants], AwsSettings, list[Note]]:
    """Return all grants, how AWS is reached, and what people should know."""
    uses = await uses_of(session)
    named = asked.bucket or (uses[0].bucket if uses else the_bucket("", uses))
    settings = admin_settings(named, uses, **at)
    chosen = [use for use in uses if use.bucket == asked.bucket] if asked.bucket else uses
    accesses = accesses_of(chosen) if chosen else [BucketAccess(bucket=named, region=settings.region)]
    if asked.prefixes:
        accesses = [replace(access, prefixes=asked.prefixes) for access in accesses]
    principal, notes = await _principal(asked, accesses, settings, exists=exists)
    role = role_arn_of(asked.multipart_role, principal)
    met: Counter[str] = Counter()
    grants = []
    for access in accesses:
        met[access.bucket] += 1
        filled = replace(access, principal=principal, multipart_role_arn=role or access.multipart_role_arn)
        origins = asked.origins if met[access.bucket] == 1 else ()
        grants.append(grants_of(filled, origins, full_access=full_access, number=met[access.bucket]))
    return grants, settings, notes


async def _principal(
    asked: _Asked, accesses: Sequence[BucketAccess], settings: AwsSettings, *, exists: bool
) -> tuple[Principal, list[Note]]:
    """Return whose credentials it is about, and what is not known of them; STS is asked only if need be."""
    if exists:
        return await find_user(asked.user, settings), []
    said = Principal(
        asked.user or USER_PLACEHOLDER,
        asked.account or ACCOUNT_PLACEHOLDER,
        partition=partition_of(settings.region),
    )
    needs_account = bool(asked.multipart_role) or any(_names_account(access) for access in accesses)
    notes: list[Note] = []
    if needs_account and not (asked.user and asked.account):
        try:
            found = await caller(settings)
        except AsyncStoreError as error:
            notes.append(("", f"STS could not be asked who has the credentials: {error}"))
        else:
            said = replace(
                said if asked.user else found,
                account_id=asked.account or found.account_id,
                partition=found.partition,
                is_complete=bool(asked.user) or found.is_complete,
            )
            if not asked.user and said.name != USER_PLACEHOLDER:
                note = f"for {said.kind} {said.name}, whose credentials are in use here; --user names another one"
                notes.append((said.name, note))
                notes += _of_role(said)
    user = f"write the name of the user in place of {USER_PLACEHOLDER}, or give --user NAME"
    account = f"write your account in place of {ACCOUNT_PLACEHOLDER}, or give --account NUMBER"
    return said, [*notes, (USER_PLACEHOLDER, user), (ACCOUNT_PLACEHOLDER, account)]


def _of_role(role: Principal) -> Iterator[Note]:
    """Yield what people should know of a role whose session has the credentials."""
    if role.is_reserved:
        made = f"no policy can be added to role {role.short_name}, which IAM Identity Center made"
        yield "", f"{made}: put the policy into its permission set as an inline policy, or name a user with --user"
    if not role.is_complete:
        yield (
            role.arn,
            f"IAM could not be asked for the path of role {role.name}: if it has one, write it into {role.arn}",
        )


def _names_account(access: BucketAccess) -> bool:
    bare = any(not key.startswith("arn:") for key in access.kms_keys)
    return bare or bool(access.role_arn or access.multipart_role_arn)


def _text(session: Session, grants: Sequence[BucketGrants], form: str, only: str) -> str:
    """Return what is printed."""
    if form != "json":
        text = (as_terraform(grants) if form == "terraform" else as_aws_cli(grants)).rstrip()
        return _json({form: text}) if session.as_json else text
    if session.as_json and not only:
        return _json([_document(grant) for grant in grants])
    sections = [section for grant in grants for section in _sections(grant) if only in {"", section.kind}]
    if not sections:
        needed = "give --origin URL" if only.startswith("cors") else "the configuration names no such role"
        raise ConfigurationError(f"there is no {only}: {needed}")
    if session.as_json:
        return _json([section.text if only == "cors-xml" else json.loads(section.text) for section in sections])
    if only:
        return "\n".join(section.text for section in sections)
    return "\n\n".join(f"# {section.title}\n{section.text}" for section in sections)


def _sections(grant: BucketGrants) -> Iterator[Section]:
    who, bucket = grant.principal, grant.access.bucket
    yield Section("user-policy", f"policy {grant.policy_name}, of {who.kind} {who.name}", _json(grant.policy))
    for role in grant.roles:
        kind = _OF_KEY[role.key]
        named = f"role {role.name} ({role.key})"
        yield Section(f"{kind}-policy", f"policy {role.policy_name}, of {named}", _json(role.policy))
        yield Section(f"{kind}-trust", f"trust relationship of {named}", _json(role.trust))
    if grant.cors:
        rules = cors_document(grant.cors)["CORSRules"]
        yield Section("cors", f"CORS of {bucket}, JSON as the console takes it", _json(rules))
        yield Section("cors-xml", f"CORS of {bucket}, XML", cors_xml(grant.cors))


def _document(grant: BucketGrants) -> dict[str, Any]:
    who = grant.principal
    return {
        "bucket": grant.access.bucket,
        "principal": {"kind": who.kind, "name": who.name, "arn": who.arn},
        "policy_name": grant.policy_name,
        "policy": grant.policy,
        "roles": [
            {
                "key": role.key,
                "arn": role.arn,
                "name": role.name,
                "policy_name": role.policy_name,
                "policy": role.policy,
                "trust": role.trust,
            }
            for role in grant.roles
        ],
        "cors": cors_document(grant.cors) if grant.cors else None,
        "cors_xml": cors_xml(grant.cors) if grant.cors else None,
    }


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)
