"""``asyncstore db``: prepare a database."""

from typing import Annotated

import typer

from asyncstore.cli._command import Session, command
from asyncstore.cli._output import clean
from asyncstore.services import make_secrets, make_tables, tables_as_sql

__all__ = ["NAME", "app"]

NAME = "db"
app = typer.Typer(help="Prepare a database.", no_args_is_help=True)

SchemaOption = Annotated[
    str, typer.Option("--schema", metavar="NAME", help="The schema that the table lies in; it must exist.")
]


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
    schema: SchemaOption = "",
) -> None:
    """Make the table and indexes of the run log, or add what an older table lacks; harmless to repeat."""
    configuration = await session.configuration()
    if not connection_string:
        configuration.access.require(write=True)
    async with await make_secrets(configuration) as secrets:
        location = await make_tables(configuration, secrets, connection_string, schema)
    if session.as_json:
        session.output.json({"location": location})
    else:
        session.output.show(clean(f"✓ tables are ready in {location}"))


@command(app, "sql")
async def sql(
    session: Session,
    dialect: Annotated[
        str,
        typer.Option(
            metavar="DIALECT", help="postgresql, sqlite or mysql; without it that of the configured database."
        ),
    ] = "",
    schema: SchemaOption = "",
) -> None:
    """
    Print what create-tables would execute on an empty database, for people who must run it themselves.

    It says as well which rights a role needs that only writes and reads runs. No connection is made.
    """
    script = await tables_as_sql(await session.configuration(), dialect.lower(), schema)
    if session.as_json:
        session.output.json({"sql": script})
    else:
        session.output.text(script.rstrip())
