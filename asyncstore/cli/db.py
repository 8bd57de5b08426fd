"""``asyncstore db``: prepare a database."""

from typing import Annotated

import typer

from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean
from asyncstore.services import make_secrets, make_tables, read_configuration

__all__ = ["NAME", "app"]

NAME = "db"
app = typer.Typer(help="Prepare a database.", no_args_is_help=True)


@command(app, "create-tables")
async def create(
    session: Session,
    connection_string: Annotated[
        str,
        typer.Argument(
            metavar="[CONNECTION_STRING]",
            help="The database, if not the configured one. Write its password as '${name}', filled from the secrets.",
        ),
    ] = "",
) -> None:
    """Make the table and indexes of the run log, or add what an older table lacks; harmless to repeat."""
    configuration = await read_configuration(session.config)
    async with await make_secrets(configuration) as secrets:
        location = await make_tables(configuration, secrets, connection_string)
    if session.as_json:
        session.output.json({"location": location})
    else:
        session.output.show(clean(f"✓ tables are ready in {location}"))


@app.callback()
def group() -> None:
    """Keep the group: an application with one command would be that command."""
