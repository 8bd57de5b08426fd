"""``asyncstore stores``: which stores a configuration names, and what may be done with each."""

import typer
from rich.text import Text

from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean
from asyncstore.services import Configuration, ServiceConfiguration

__all__ = ["NAME", "app"]

NAME = "stores"
app = typer.Typer(help="See which stores the configuration names; --store chooses one.", no_args_is_help=True)

EMBEDDED = "embedded default"


@command(app, "list")
async def list_stores(session: Session) -> None:
    """List the stores of the configuration and what may be done with each; nothing is opened."""
    chosen = await session.configuration()
    found = chosen.every_store()
    if session.as_json:
        session.output.json([_document(store, chosen) for store in found])
        return
    session.output.table(["STORE", "ACCESS", "RUN LOG", "CATALOG", ""], [_row(store, chosen) for store in found])
    if not chosen.stores:
        session.output.note("these services have no name: 'stores:' in a configuration names several")


@app.callback()
def group() -> None:
    """Keep the group: an application with one command would be that command."""


def _document(store: Configuration, chosen: Configuration) -> dict[str, object]:
    return {
        "name": store.store,
        "default": _is_default(store),
        "chosen": store.store == chosen.store,
        "allow_read": store.access.allow_read,
        "allow_write": store.access.allow_write,
        "run_log_store": _type(store.run_log_store),
        "catalog": _type(store.catalog),
    }


def _row(store: Configuration, chosen: Configuration) -> tuple[str | Text, ...]:
    access = str(store.access)
    notes = ["default"] if _is_default(store) and store.store else []
    notes += ["chosen"] if store.store == chosen.store and not _is_default(store) else []
    return (
        clean(store.store or "-", "bold" if store.store == chosen.store else ""),
        clean(access, "" if store.access.allow_write and store.access.allow_read else "yellow"),
        _type(store.run_log_store),
        _type(store.catalog),
        clean(", ".join(notes), "dim"),
    )


def _is_default(store: Configuration) -> bool:
    return not store.store or store.stores[store.store].default


def _type(service: ServiceConfiguration | None) -> str:
    return service.type if service else EMBEDDED
