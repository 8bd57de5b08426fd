"""The ``env-secrets`` provider: secrets are environment variables."""

from __future__ import annotations

import os

from asyncstore._core.settings import Settings
from asyncstore.secrets.base import SecretsProvider

__all__ = ["EnvSecrets"]


class EnvSettings(Settings):
    """Settings of ``env-secrets``."""

    prefix: str = ""
    """Stands before the secret's name in the variable's name."""
    suffix: str = ""
    """Stands after the secret's name in the variable's name."""


class EnvSecrets(SecretsProvider):
    """
    Reads secret ``name`` from the environment variable ``<prefix><name><suffix>``, at the time it is asked for.

    Args:
        options: ``prefix`` and ``suffix``, both empty by default.
    """

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._settings = EnvSettings.parse(options, "secrets 'env-secrets'")

    @property
    def _where(self) -> str:
        prefix, suffix = self._settings.prefix, self._settings.suffix
        named = f" (as {prefix}<name>{suffix})" if prefix or suffix else ""
        return f"among the environment variables{named}"

    async def _find(self, name: str) -> str | None:
        return os.environ.get(f"{self._settings.prefix}{name}{self._settings.suffix}")
