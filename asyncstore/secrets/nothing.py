"""The ``do-nothing`` provider: there are no secrets."""

from __future__ import annotations

from asyncstore._core.settings import Settings
from asyncstore.secrets.base import SecretsProvider

__all__ = ["DoNothingSecrets"]


class DoNothingSettings(Settings):
    """The ``do-nothing`` provider has no settings."""


class DoNothingSecrets(SecretsProvider):
    """
    Has no secret at all.

    The older tools give an empty string for every name; here a placeholder that cannot be filled is an error, so that
    no connection is ever tried with an empty password.
    """

    def __init__(self, **options: object) -> None:
        super().__init__()
        DoNothingSettings.parse(options, "secrets 'do-nothing'")

    @property
    def _where(self) -> str:
        return "because no secrets are configured: set 'secrets' to type env-secrets, dotenv or aws-secrets-manager"

    async def _find(self, name: str) -> str | None:
        return None
