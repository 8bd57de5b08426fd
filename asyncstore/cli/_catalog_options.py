"""The options that the commands of ``asyncstore catalog`` share, and what people may write for sizes and rates."""

import re
from typing import Annotated, Any, TypeAlias

import typer

__all__ = [
    "GOES_ON",
    "AllowNoMatchOption",
    "ConcurrencyOption",
    "DryRunOption",
    "ExcludeOption",
    "FolderOption",
    "KeepTimesOption",
    "LocalFolderOption",
    "MemoryOption",
    "PatternsArgument",
    "RateOption",
    "RunArgument",
    "limits",
    "rate",
    "size",
]

GOES_ON = "the same command goes on where it stopped"
"""What people are told after Ctrl-C."""

MIB = 1024 * 1024
LEAST_MEMORY_BYTES = 16 * MIB
"""With less, large files could not be moved in parts."""

LEAST_RATE_BYTES_S = 1000

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(i?)(b?)", re.IGNORECASE | re.ASCII)
_PER_SECOND = re.compile(r"\s*(?:/\s*s(?:ec)?|ps)\Z", re.IGNORECASE)
_BITS = re.compile(r"bits?\Z|[kKMGT]i?b\Z")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def size(text: str) -> int:
    """
    Return the bytes that ``64MiB``, ``200MB`` or ``500k`` means; without an ``i`` the units are decimal.

    Raises:
        typer.BadParameter: it means none.
    """
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no size: write 64MiB, 200MB or 1.5G (k, M, G, T count in thousands, Ki, Mi, Gi, Ti in 1,024s)"
        )
    number, unit, binary, _ = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])


def rate(text: str) -> int:
    """
    Return the bytes a second that ``50MB/s``, ``500k`` or ``2MiB/s`` means.

    Raises:
        typer.BadParameter: it means none, or bits, or so few that nothing would ever be done.
    """
    amount = _PER_SECOND.sub("", text.strip())
    if _BITS.search(amount):
        raise typer.BadParameter(f"{text!r} reads like bits: write bytes a second with a large B, as in 50MB/s")
    if _QUANTITY.fullmatch(amount) is None:
        raise typer.BadParameter(f"{text!r} is no rate: write 50MB/s, 2MiB/s or 500k, in bytes a second")
    bytes_s = size(amount)
    if bytes_s < LEAST_RATE_BYTES_S:
        raise typer.BadParameter(f"{text!r} is {bytes_s} bytes a second: write 1kB/s at least")
    return bytes_s


def _memory(text: str) -> int:
    size_bytes = size(text)
    if size_bytes < LEAST_MEMORY_BYTES:
        raise typer.BadParameter(f"{text!r} is {size_bytes:,} bytes: transfers need 16MiB at least")
    return size_bytes


RunArgument: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
PatternsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATTERN]...", help="Globs within the folder, '**' by default; ** crosses folders, * does not."
    ),
]
FolderOption: TypeAlias = Annotated[
    str | None, typer.Option("--folder", metavar="FOLDER", help="The compute data folder, if not the configured one.")
]
LocalFolderOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--local-folder", metavar="PATH", help="Where that folder lies here, if not where its name says."),
]
ExcludeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="Leave out what it matches; may be given several times."),
]
AllowNoMatchOption: TypeAlias = Annotated[
    bool, typer.Option("--allow-no-match", help="Do not mind patterns that match nothing.")
]
KeepTimesOption: TypeAlias = Annotated[
    bool, typer.Option("--keep-times", help="Give files the modification times that they were put with.")
]
DryRunOption: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Move nothing, only show the plan; --json prints one for 'catalog run'.")
]
MemoryOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--max-memory", metavar="SIZE", parser=_memory, help="Most memory for what is in flight: 64MiB."),
]
RateOption: TypeAlias = Annotated[
    int | None, typer.Option("--max-bandwidth", metavar="RATE", parser=rate, help="Most bytes a second: 50MB/s.")
]
ConcurrencyOption: TypeAlias = Annotated[
    int | None, typer.Option("--max-concurrency", metavar="N", min=1, max=1024, help="Most requests at once.")
]


def limits(max_memory: int | None, max_bandwidth: int | None, max_concurrency: int | None) -> dict[str, Any]:
    """Return the catalog's configuration keys that stand for what was given: bytes, bytes a second, requests."""
    return {
        **({} if max_memory is None else {"max_memory_mb": max_memory // MIB}),
        **({} if max_bandwidth is None else {"max_bandwidth_mb_s": max_bandwidth / 1e6}),
        **({} if max_concurrency is None else {"max_concurrency": max_concurrency}),
    }
