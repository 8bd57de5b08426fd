"""Commands are coroutine functions; here they get the options that all share, a loop, and their errors printed."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from asyncstore.cli._errors import FAILED, INTERRUPTED, report
from asyncstore.cli._output import Output, OutputError, abandon_stdout, flush_stdout
from asyncstore.services import open_services, read_configuration
from asyncstore.services.copying import open_run_log_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.services import Configuration, Services

__all__ = ["ConfigOption", "DebugOption", "JsonOption", "Session", "Shared", "StoreOption", "command"]

ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration in YAML; without it, .asyncstore/ in this folder."),
]
StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--store", metavar="NAME", help="Which of the configuration's stores; its default one without it."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DebugOption: TypeAlias = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]

Work: TypeAlias = "Callable[..., Awaitable[None] | None]"
"""What a command does."""

CONFIG_VARIABLE = "ASYNCSTORE_CONFIG"
STORE_VARIABLE = "ASYNCSTORE_STORE"


@dataclass(frozen=True, slots=True)
class Session:
    """What one invocation was asked for, beside the command's own arguments."""

    config: Path | None = None
    debug: bool = False
    output: Output = field(default_factory=Output)
    store: str | None = None

    @property
    def as_json(self) -> bool:
        """Whether a program reads the output."""
        return self.output.as_json

    async def configuration(self) -> Configuration:
        """Read the configuration, with the services of the store that was asked for."""
        return await read_configuration(self.config, self.store)

    async def require(self, *, reads: bool = False, writes: bool = False) -> None:
        """
        Check that the store allows what a command is going to do.

        Raises:
            AccessModeError: it does not.
        """
        (await self.configuration()).access.require(read=reads, write=writes)

    def services(
        self, catalog_options: Mapping[str, Any] | None = None, *, reads: bool = False, writes: bool = False
    ) -> Services:
        """
        Return the services of the configuration, to be opened with ``async with``; the options go before its own.

        A command says whether it reads and writes, so that it is refused before anything is opened.
        """
        return open_services(self.config, store=self.store, catalog_options=catalog_options, reads=reads, writes=writes)

    def run_log_store(self, *, reads: bool = False, writes: bool = False) -> AbstractAsyncContextManager[RunLogStore]:
        """Return the configuration's run-log store alone, likewise."""
        return open_run_log_store(self.config, store=self.store, reads=reads, writes=writes)


@dataclass(slots=True)
class Shared:
    """The shared options as given before the command; kept in the context's ``obj``."""

    config: Path | None = None
    as_json: bool = False
    debug: bool = False
    store: str | None = None


def command(
    app: typer.Typer, name: str, *, before: Callable[..., None] | None = None, interrupted: str = ""
) -> Callable[[Work], Callable[..., None]]:
    """
    Register ``async def work(session, …)`` as a command of ``app``.

    The parameters after the first become arguments and options; ``--config``, ``--store``, ``--json`` and ``--debug``
    are added, and count as well when they stand before the command. ``before`` is called with the same arguments before
    there is a loop: what asks the user belongs there, where Ctrl-C ends it and nothing is held open meanwhile. Work
    that asks half-way is a plain function, and runs a loop of its own before the question and another one after it.
    ``interrupted`` says what Ctrl-C leaves behind.
    """

    def register(work: Work) -> Callable[..., None]:
        @functools.wraps(work)
        def run(
            ctx: typer.Context, config: Path | None, store: str | None, as_json: bool, debug: bool, **arguments: Any
        ) -> None:
            session = _session(ctx, Shared(config, as_json, debug, store))
            with _reported(session, interrupted):
                if before is not None:
                    before(session, **arguments)
                _run(work, session, arguments)

        signature = _signature(work)
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        app.command(name)(run)
        return run

    return register


def _signature(work: Work) -> inspect.Signature:
    own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        inspect.Parameter("config", keyword, default=None, annotation=ConfigOption),
        inspect.Parameter("store", keyword, default=None, annotation=StoreOption),
        inspect.Parameter("as_json", keyword, default=False, annotation=JsonOption),
        inspect.Parameter("debug", keyword, default=False, annotation=DebugOption),
    ]
    return inspect.Signature(parameters)


def _session(ctx: typer.Context, given: Shared) -> Session:
    """Return what ``given`` with the command, before it, or by the environment comes to."""
    shared = ctx.find_object(Shared) or Shared()
    variable = os.environ.get(CONFIG_VARIABLE)
    return Session(
        config=given.config or shared.config or (Path(variable) if variable else None),
        debug=given.debug or shared.debug,
        output=Output(as_json=given.as_json or shared.as_json),
        store=given.store or shared.store or os.environ.get(STORE_VARIABLE) or None,
    )


def _run(work: Work, session: Session, arguments: dict[str, Any]) -> None:
    doing = work(session, **arguments)
    if doing is not None:
        asyncio.run(_awaited(doing))
    flush_stdout()


async def _awaited(doing: Awaitable[None]) -> None:
    await doing


@contextmanager
def _reported(session: Session, interrupted: str) -> Iterator[None]:
    """Turn what goes wrong within into a line on stderr and an exit code."""
    try:
        yield
    except (KeyboardInterrupt, typer.Abort):
        session.output.note(f"interrupted: {interrupted}" if interrupted else "interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output has seen enough (``| head``).
        abandon_stdout()
        raise typer.Exit(FAILED) from None
    except OutputError as error:
        abandon_stdout()
        session.output.error(str(error))
        raise typer.Exit(FAILED) from None
    except typer.Exit:
        raise
    except Exception as error:
        raise typer.Exit(report(error, session.output, debug=session.debug)) from None
