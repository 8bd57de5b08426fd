"""The application: command groups, the options that stand before them, and the outermost errors."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from asyncstore.cli import bucket, catalog, config, db, demo, runs, stores
from asyncstore.cli._command import ConfigOption, DebugOption, JsonOption, Shared, StoreOption
from asyncstore.cli._errors import EXIT_CODES_HELP, FAILED, INTERRUPTED, USAGE
from asyncstore.cli._output import Output, OutputError, abandon_stdout, flush_stdout, writing

__all__ = ["app", "run"]

HELP = f"""
Run logs and data catalogs for async pipelines, on S3, in a SQL database or in a folder.

Begin with 'asyncstore demo'; then 'asyncstore runs list'.

{EXIT_CODES_HELP}
"""

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's own, or click's: newer versions of Typer carry their click inside."""

app = typer.Typer(
    name="asyncstore",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for group in (runs, catalog, db, bucket, stores, config):
    app.add_typer(group.app, name=group.NAME)
demo.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"asyncstore {_version()}\n")
        raise typer.Exit


def _version() -> str:
    try:
        return version("asyncstore")
    except PackageNotFoundError:
        return "(run from a folder, not installed)"


@app.callback()
def options(
    ctx: typer.Context,
    config: ConfigOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """Keep what stands before the command."""
    ctx.obj = Shared(config, as_json, debug, store)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if sys.stdout is None:
        # A file that is opened now would get its number, and be printed into.
        Output().error("standard output is closed: send it to a file, or to /dev/null")
        return FAILED
    try:
        with writing():
            code = _invoke(arguments)
        flush_stdout()
    except BrokenPipeError:
        abandon_stdout()
        return FAILED
    except OutputError as error:
        # Commands report their own errors: this is help or the version that could not be printed.
        abandon_stdout()
        Output().error(str(error))
        return FAILED
    return code


def _invoke(arguments: list[str]) -> int:
    try:
        return int(app(args=arguments, prog_name="asyncstore", standalone_mode=False) or 0)
    except UsageError as error:
        return _usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        sys.stdout.write(context.get_help() + "\n")
        return USAGE
    path = context.command_path if context is not None else "asyncstore"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    Output().error(message[:1].lower() + message[1:].rstrip("."), f"'{path} --help' shows what is possible")
    return USAGE
