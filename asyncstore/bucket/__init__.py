"""
A bucket made ready for asyncstore, and checked: settings, policies, permissions.

Names are loaded when they are first used: what prints a policy does not wait for the AWS libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncstore.bucket.applying import GrantStep, apply_grants, caller, find_user, plan_grants
    from asyncstore.bucket.check import check_bucket
    from asyncstore.bucket.cors import CorsRule, cors_document, cors_rules, cors_xml
    from asyncstore.bucket.documents import (
        BucketAccess,
        Principal,
        multipart_role_policy,
        role_policy,
        statement_for,
        trust_policy,
        user_policy,
    )
    from asyncstore.bucket.grants import BucketGrants, grants_of
    from asyncstore.bucket.initializing import BucketReport, State, init_bucket
    from asyncstore.bucket.plan import WantedBucket
    from asyncstore.bucket.rendering import as_aws_cli, as_terraform

__all__ = [
    "BucketAccess",
    "BucketGrants",
    "BucketReport",
    "CorsRule",
    "GrantStep",
    "Principal",
    "State",
    "WantedBucket",
    "apply_grants",
    "as_aws_cli",
    "as_terraform",
    "caller",
    "check_bucket",
    "cors_document",
    "cors_rules",
    "cors_xml",
    "find_user",
    "grants_of",
    "init_bucket",
    "multipart_role_policy",
    "plan_grants",
    "role_policy",
    "statement_for",
    "trust_policy",
    "user_policy",
]

_HOMES = {
    "applying": ("GrantStep", "apply_grants", "caller", "find_user", "plan_grants"),
    "check": ("check_bucket",),
    "cors": ("CorsRule", "cors_document", "cors_rules", "cors_xml"),
    "documents": (
        *("BucketAccess", "Principal", "multipart_role_policy", "role_policy", "statement_for", "trust_policy"),
        "user_policy",
    ),
    "grants": ("BucketGrants", "grants_of"),
    "initializing": ("BucketReport", "State", "init_bucket"),
    "plan": ("WantedBucket",),
    "rendering": ("as_aws_cli", "as_terraform"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
