"""``asyncstore config``: see whether the configured services work."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass

import typer
from rich.text import Text

from asyncstore._core.readable import readable_id
from asyncstore.cli._command import Session, command
from asyncstore.cli._errors import exit_code
from asyncstore.cli._output import clean, duration_text
from asyncstore.errors import AsyncStoreError, RunLogNotFoundError
from asyncstore.secrets import SecretsProvider
from asyncstore.services import (
    Configuration,
    ServiceConfiguration,
    make_catalog,
    make_run_log_store,
    make_secrets,
    read_configuration,
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


@command(app, "check")
async def check(session: Session) -> None:
    """Open each configured service, read from it, and say what is wrong."""
    configuration = await read_configuration(session.config)
    secrets = await make_secrets(configuration)
    async with aclosing(secrets):
        checks = [
            await _checked("secrets", configuration.secrets, "do-nothing", lambda: _try_secrets(secrets)),
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
    if session.as_json:
        session.output.json([asdict(found) for found in checks])
    else:
        session.output.table(["SERVICE", "TYPE", "STATE", "TIME", "WHERE"], [_row(found) for found in checks])
    code = next((found.exit_code for found in checks if not found.ok), 0)
    if code:
        raise typer.Exit(code)


@app.callback()
def group() -> None:
    """Keep the group: an application with one command would be that command."""


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
        with suppress(RunLogNotFoundError):
            await store.get_run_log_by_id(f"check-{readable_id()}", full=False)
        return store.location


async def _try_catalog(configuration: Configuration, secrets: SecretsProvider) -> str:
    async with await make_catalog(configuration, secrets) as catalog:
        async for _ in catalog.list(f"check-{readable_id()}"):
            pass
        return catalog.location


def _row(found: Check) -> tuple[str | Text, ...]:
    state = clean("✓ ok", "green") if found.ok else clean("✗ failed", "bold red")
    where = clean(found.location) if found.ok else clean(found.error, "red")
    return clean(found.service), found.type, state, duration_text(found.seconds), where
