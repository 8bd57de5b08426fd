"""The ``dotenv`` provider: secrets are the lines of a ``.env`` file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from asyncstore._core.settings import Settings
from asyncstore.errors import ConfigurationError
from asyncstore.secrets.base import SecretsProvider

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AsyncExitStack

__all__ = ["DotenvSecrets"]


class DotenvSettings(Settings):
    """Settings of ``dotenv``."""

    location: Path = Path(".env")
    """The file, relative to the working folder."""


class DotenvSecrets(SecretsProvider):
    """
    Reads a ``.env`` file once, when it opens; later changes of the file are not seen.

    The file is read as python-dotenv reads it: ``export``, quotes and comments are known, and ``${OTHER}`` in a value
    stands for another line or an environment variable.

    Args:
        options: ``location``, the file; ``.env`` by default.
    """

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._location = DotenvSettings.parse(options, "secrets 'dotenv'").location.expanduser()
        self._values: Mapping[str, str | None] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._location} {self._state}>"

    @property
    def _where(self) -> str:
        return f"in {self._location}"

    async def _open(self, stack: AsyncExitStack) -> None:
        self._values = await asyncio.to_thread(_read, self._location)

    async def _find(self, name: str) -> str | None:
        return self._values.get(name)


def _read(location: Path) -> Mapping[str, str | None]:
    try:
        with location.open(encoding="utf-8") as stream:
            return dotenv_values(stream=stream)
    except FileNotFoundError as error:
        raise ConfigurationError(f"secrets 'dotenv': there is no file {location.absolute()}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        # The decoding error's cause holds the file's bytes, which are secrets.
        raise ConfigurationError(f"secrets 'dotenv': cannot read {location.absolute()}: {reason}") from None
