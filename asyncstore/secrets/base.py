"""The contract of a secrets provider."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from asyncstore._core.resource import Resource
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

__all__ = ["SecretsProvider"]


class SecretsProvider(Resource):
    """
    Gives secrets by name; satisfies :class:`asyncstore._core.placeholders.SecretSource`.

    It opens itself when it is first asked, so it can be handed to a store as it is. No value is ever part of a repr, a
    log or an error.
    """

    async def get(self, name: str) -> str:
        """
        Return the secret of that name.

        Raises:
            ConfigurationError: there is none; the message names it, and no other secret.
        """
        await self.open()
        value = await self._find(name)
        if value is None:
            raise ConfigurationError(f"secret {name!r} not found {self._where}")
        return value

    @property
    @abstractmethod
    def _where(self) -> str:
        """Where it was looked for, as the end of a sentence."""

    @abstractmethod
    async def _find(self, name: str) -> str | None:
        """Return the secret, ``None`` if there is none."""

    async def _open(self, stack: AsyncExitStack) -> None:
        """Nothing to do, unless a provider says otherwise."""
