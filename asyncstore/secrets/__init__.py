"""Secret providers: where the values of ``${name}`` placeholders come from."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asyncstore.secrets.base import SecretsProvider
from asyncstore.secrets.dotenv import DotenvSecrets
from asyncstore.secrets.env import EnvSecrets
from asyncstore.secrets.nothing import DoNothingSecrets

if TYPE_CHECKING:
    from asyncstore.secrets.aws import AwsSecretsManagerSecrets

__all__ = ["AwsSecretsManagerSecrets", "DoNothingSecrets", "DotenvSecrets", "EnvSecrets", "SecretsProvider"]


def __getattr__(name: str) -> Any:
    # The AWS libraries take half a second to import: who keeps secrets elsewhere need not wait for them.
    if name == "AwsSecretsManagerSecrets":
        return importlib.import_module("asyncstore.secrets.aws").AwsSecretsManagerSecrets
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
