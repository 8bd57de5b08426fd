"""Secret providers: where the values of ``${name}`` placeholders come from."""

from __future__ import annotations

from asyncstore.secrets.base import SecretsProvider
from asyncstore.secrets.dotenv import DotenvSecrets
from asyncstore.secrets.env import EnvSecrets
from asyncstore.secrets.nothing import DoNothingSecrets

__all__ = ["DoNothingSecrets", "DotenvSecrets", "EnvSecrets", "SecretsProvider"]
