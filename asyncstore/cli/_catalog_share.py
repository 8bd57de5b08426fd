"""``catalog share``: a link to one file of a run, for somebody who has no keys."""

import re
from datetime import timedelta
from typing import Annotated

import typer

from asyncstore.cli._catalog_options import RunArgument
from asyncstore.cli._command import Session, command
from asyncstore.cli._output import time_text

__all__ = ["lifetime", "register"]

_LIFETIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d|w|)", re.IGNORECASE | re.ASCII)
_UNITS_S = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def register(app: typer.Typer) -> None:
    """Add the command to ``asyncstore catalog``."""
    command(app, "share")(share)


def lifetime(text: str) -> timedelta:
    """
    Return how long ``1h``, ``30min``, ``7d`` or ``90`` (seconds) is.

    Raises:
        typer.BadParameter: it means nothing.
    """
    found = _LIFETIME.fullmatch(text.strip())
    try:
        if found is not None:
            return timedelta(seconds=float(found[1]) * _UNITS_S[found[2].lower()])
    except OverflowError:
        pass
    raise typer.BadParameter(f"{text!r} is no time: write 1h, 30min or 7d; the units are s, min, h, d and w")


async def share(
    session: Session,
    run_id: RunArgument,
    name: Annotated[str, typer.Argument(metavar="FILE", help="The file, as 'list' shows it.")],
    expires: Annotated[
        timedelta, typer.Option("--expires", metavar="TIME", parser=lifetime, help="How long: 1h, 30min; 7d at most.")
    ] = "1h",  # type: ignore[assignment]
    save_as: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Let browsers save it under that name, instead of showing it.")
    ] = "",
) -> None:
    """
    Print a link by which anybody can download one file, until it ends.

    Whoever has the link has the file: it is as secret as the file is. It ends with the credentials that signed it, if
    they end sooner.
    """
    async with session.services(reads=True) as services:
        link = await services.catalog.presign_get(name, run_id, expires=expires, download_name=save_as)
    if session.as_json:
        ends = {"expires_at": f"{link.expires_at:%Y-%m-%dT%H:%M:%SZ}", "shortened": link.shortened}
        session.output.json({"url": link.url, "method": link.method, "location": link.location, **ends})
        return
    session.output.text(link.url)
    sooner = ", sooner than asked for: the credentials in use end then" if link.shortened else ""
    session.output.note(f"anybody can download {link.location} by it until {time_text(link.expires_at)}{sooner}")
