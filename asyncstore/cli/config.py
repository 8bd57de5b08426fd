"""``asyncstore config``: see whether the configured services work."""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from asyncstore._core.findings import Finding
from asyncstore._core.readable import readable_id
from asyncstore.cli._command import Session, command
from asyncstore.cli._errors import exit_code
from asyncstore.cli._findings import findings_code, row, show_remedies
from asyncstore.cli._output import clean, duration_text
from asyncstore.errors import AccessDeniedError, AsyncStoreError, ConfigurationError, RunLogNotFoundError
from asyncstore.secrets import SecretsProvider
from asyncstore.services import (
    Checker,
    Configuration,
    ServiceConfiguration,
    make_catalog,
    make_run_log_store,
    make_secrets,
)

__all__ = ["NAME", "app"]

NAME = "config"
app = typer.Typer(help="See whether the configured services work.", no_args_is_help=True)


@dataclass(slots=True)
class Check:
    """What became of one service; the fields are the JSON's keys."""

    service: str
    type: str
    ok: bool = False
    location: str = ""
    seconds: float = 0.0
    error: str = ""
    exit_code: int = 0
    store: str = ""
    checks: Sequence[Finding] = ()


@command(app, "check", interrupted="test objects and their uploads were removed")
async def check(
    session: Session,
    every: Annotated[
        bool, typer.Option("--all", help="Show each check of each service, also those that are ok.")
    ] = False,
) -> None:
    """
    Open each configured service, read from it, and try what it does; say which permission or setting is missing.

    Where writing is allowed, a small test file is written to buckets and folders and removed again.
    """
    configuration = await session.configuration()
    secrets = await make_secrets(configuration)
    async with aclosing(secrets):
        checks = [await _checked("secrets", configuration.secrets, "do-nothing", lambda: _try_secrets(secrets))]
        checker = Checker(secrets)
        for store in [configuration] if session.store else configuration.every_store():
            checks += await _checked_services(store, secrets, checker)
    if session.as_json:
        session.output.json([_document(found) for found in checks])
    else:
        _tell(session, checks, every=every)
    code = next((found.exit_code for found in checks if not found.ok), 0)
    if code:
        raise typer.Exit(code)


@app.callback()
def group() -> None:
    """Keep the group: an application with one command would be that command."""


async def _checked_services(configuration: Configuration, secrets: SecretsProvider, checker: Checker) -> list[Check]:
    checks = [
        await _checked(
            "run_log_store",
            configuration.run_log_store,
            "embedded default",
            lambda: _try_run_log_store(configuration, secrets),
        ),
        await _checked(
            "catalog", configuration.catalog, "embedded default", lambda: _try_catalog(configuration, secrets)
        ),
    ]
    for found in checks:
        found.store = configuration.store
        if found.exit_code in {0, *map(exit_code, (AccessDeniedError(), ConfigurationError()))}:
            _judge(found, await checker.findings(configuration, found.service))
    return checks


def _judge(found: Check, findings: Sequence[Finding]) -> None:
    """Take over what was found of a service; what stopped it from being opened stays what is wrong with it."""
    if found.error:
        found.checks = [finding for finding in findings if finding.check != "reach"]
        return
    found.checks = findings
    problems = [finding.detail or finding.check for finding in findings if finding.is_problem]
    if problems:
        found.ok, found.exit_code = False, findings_code(findings)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        found.error = f"{problems[0]}{more}"


async def _checked(
    service: str, wanted: ServiceConfiguration | None, default: str, attempt: Callable[[], Awaitable[str]]
) -> Check:
    found = Check(service, wanted.type if wanted else default)
    start = time.perf_counter()
    try:
        found.location = await attempt()
        found.ok = True
    except AsyncStoreError as error:
        found.error, found.exit_code = str(error), exit_code(error)
    found.seconds = round(time.perf_counter() - start, 6)
    return found


async def _try_secrets(secrets: SecretsProvider) -> str:
    await secrets.open()
    return ""


async def _try_run_log_store(configuration: Configuration, secrets: SecretsProvider) -> str:
    async with await make_run_log_store(configuration, secrets) as store:
        if configuration.access.allow_read:
            with suppress(RunLogNotFoundError):
                await store.get_run_log_by_id(f"check-{readable_id()}", full=False)
        return store.location


async def _try_catalog(configuration: Configuration, secrets: SecretsProvider) -> str:
    async with await make_catalog(configuration, secrets) as catalog:
        if configuration.access.allow_read:
            async for _ in catalog.list(f"check-{readable_id()}"):
                pass
        return catalog.location


def _document(found: Check) -> dict[str, Any]:
    document = asdict(found)
    if not found.store:
        del document["store"]
    return document


def _tell(session: Session, checks: Sequence[Check], *, every: bool) -> None:
    output = session.output
    named = any(found.store for found in checks)
    headings = ["SERVICE", "TYPE", "STATE", "TIME", "WHERE"]
    rows = [((clean(found.store),) if named else ()) + _row(found) for found in checks]
    output.table([*(["STORE"] if named else []), *headings], rows)
    told = [(names, finding) for names, findings in _distinct(checks) for finding in findings]
    shown = [(names, finding) for names, finding in told if every or finding.is_problem]
    if shown:
        output.text("")
        lines = [(clean(names), *row(finding)) for names, finding in shown]
        output.table(["SERVICE", "CHECK", "STATE", "DETAIL"], lines)
        show_remedies(output, [finding for _, finding in shown])
    for names, finding in told:
        if finding.state in {"note", "unsupported"} and not every:
            output.note(f"{names}: {finding.check}: {finding.detail}")


def _distinct(checks: Sequence[Check]) -> list[tuple[str, Sequence[Finding]]]:
    """Return what was found once for all services that it was found for, under their names."""
    named: dict[int, tuple[str, Sequence[Finding]]] = {}
    for found in checks:
        names, _ = named.get(id(found.checks), ("", ()))
        named[id(found.checks)] = (f"{names}, {_name(found)}" if names else _name(found), found.checks)
    return list(named.values())


def _name(found: Check) -> str:
    return f"{found.store}: {found.service}" if found.store else found.service


def _row(found: Check) -> tuple[str | Text, ...]:
    state = clean("✓ ok", "green") if found.ok else clean("✗ failed", "bold red")
    where = clean(found.location) if found.ok else clean(found.error, "red")
    return clean(found.service), found.type, state, duration_text(found.seconds), where
