"""Grants in the languages of other tools, ready to paste: Terraform's, and the AWS CLI's."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from asyncstore.bucket.cors import cors_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from asyncstore.bucket.cors import CorsRule
    from asyncstore.bucket.documents import Document
    from asyncstore.bucket.grants import BucketGrants, RoleGrant

__all__ = ["as_aws_cli", "as_terraform"]

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NOT_WORD = re.compile(r"\W", re.ASCII)
_ESCAPE = re.compile(r"\\.")
_REPLACES = "it replaces all CORS rules of the bucket; 'asyncstore bucket init --origin URL' keeps those of others"
_RESERVED = "no policy can be added to role {}: put this into its permission set, in IAM Identity Center"


def as_terraform(grants: Sequence[BucketGrants]) -> str:
    """Return Terraform's configuration of users' policies, roles and CORS rules; users and buckets are named only."""
    labels = _Labels()
    blocks = [block for grant in grants for block in _terraform_blocks(grant, labels)]
    return "\n\n".join(blocks) + "\n"


def as_aws_cli(grants: Sequence[BucketGrants]) -> str:
    """Return commands for a POSIX shell, of which all but the creation of roles may be repeated."""
    roles: set[str] = set()
    lines = [line for grant in grants for line in _cli_lines(grant, roles)]
    return "\n".join(lines) + "\n"


class _Labels:
    """What things are called in Terraform's configuration: each in its own way, though few signs may be used."""

    def __init__(self) -> None:
        self._roles: dict[str, str] = {}
        self._taken: set[tuple[str, str]] = set()

    def of_role(self, role: RoleGrant) -> tuple[str, bool]:
        """Return the label of a role, and whether it has been asked for the first time."""
        if role.arn in self._roles:
            return self._roles[role.arn], False
        self._roles[role.arn] = self.new("aws_iam_role", f"asyncstore_{role.name}")
        return self._roles[role.arn], True

    def new(self, kind: str, name: str) -> str:
        """Return a label that no other resource of that kind has."""
        base = _NOT_WORD.sub("_", name)
        label = next(
            label
            for label in itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
            if (kind, label) not in self._taken
        )
        self._taken.add((kind, label))
        return label


def _terraform_blocks(grant: BucketGrants, labels: _Labels) -> Iterator[str]:
    """Yield the blocks of one grant, and of roles that have been made nothing but what this grant adds to them."""
    who = grant.principal
    for role in grant.roles:
        of_role, is_new = labels.of_role(role)
        if is_new:
            yield f"# {role.key}\n{_role_block(role, of_role)}"
        label = labels.new("aws_iam_role_policy", f"{grant.policy_name}_{role.name}")
        yield _policy_block(role.policy_name, label, "role", f"aws_iam_role.{of_role}.name", role.policy)
    if who.is_reserved:
        yield f"# {_RESERVED.format(who.short_name)}\n# {_compact(grant.policy)}"
    else:
        label = labels.new(f"aws_iam_{who.kind}_policy", grant.policy_name)
        block = _policy_block(grant.policy_name, label, who.kind, _hcl(who.short_name), grant.policy)
        yield f"# {who.kind} {who.name}\n{block}"
    if grant.cors:
        label = labels.new("aws_s3_bucket_cors_configuration", grant.policy_name)
        yield f"# {_REPLACES}\n{_cors_block(grant, label)}"


def _policy_block(name: str, label: str, kind: str, whose: str, policy: Document) -> str:
    arguments = {"name": _hcl(name), kind: whose, "policy": _jsonencode(policy)}
    return _block(f"aws_iam_{kind}_policy", label, **arguments)


def _role_block(role: RoleGrant, label: str) -> str:
    return _block(
        "aws_iam_role",
        label,
        name=_hcl(role.name),
        path=_hcl(role.path),
        max_session_duration=str(role.session_limit_s),
        assume_role_policy=_jsonencode(role.trust),
    )


def _cors_block(grant: BucketGrants, label: str) -> str:
    rules = "\n".join(_cors_rule(rule) for rule in grant.cors)
    head = f'resource "aws_s3_bucket_cors_configuration" "{label}" {{\n  bucket = {_hcl(grant.access.bucket)}\n\n'
    return f"{head}{rules}\n}}"


def _cors_rule(rule: CorsRule) -> str:
    said = {
        "id": _hcl(rule.id) if rule.id else "",
        "allowed_origins": _hcl(list(rule.origins)),
        "allowed_methods": _hcl(list(rule.methods)),
        "allowed_headers": _hcl(list(rule.headers)) if rule.headers else "",
        "expose_headers": _hcl(list(rule.exposed)) if rule.exposed else "",
        "max_age_seconds": str(rule.max_age_s),
    }
    return "  cors_rule {\n" + _assignments({key: text for key, text in said.items() if text}, 4) + "\n  }"


def _block(kind: str, label: str, **arguments: str) -> str:
    return f'resource "{kind}" "{label}" {{\n{_assignments(arguments, 2)}\n}}'


def _assignments(arguments: Mapping[str, str], indent: int) -> str:
    """Return arguments as ``terraform fmt`` has them: the signs of neighbours that take one line stand in a column."""
    lines = []
    for is_long, group in itertools.groupby(arguments.items(), key=lambda argument: "\n" in argument[1]):
        pairs = list(group)
        width = 0 if is_long else max(len(key) for key, _ in pairs)
        lines += [f"{' ' * indent}{key.ljust(width)} = {text}" for key, text in pairs]
    return "\n".join(lines)


def _jsonencode(document: Any) -> str:
    return f"jsonencode({_hcl(document, 2)})"


def _hcl(value: Any, indent: int = 0) -> str:
    """Return a value of JSON as an expression; lists of plain values stay on one line."""
    match value:
        case dict():
            said = {key if _KEY.fullmatch(key) else _string(key): _hcl(item, indent + 2) for key, item in value.items()}
            return "\n".join(["{", _assignments(said, indent + 2), " " * indent + "}"])
        case list() if any(isinstance(item, dict) for item in value):
            lines = [f"{' ' * (indent + 2)}{_hcl(item, indent + 2)}," for item in value]
            return "\n".join(["[", *lines, " " * indent + "]"])
        case list():
            return f"[{', '.join(map(_hcl, value))}]"
        case str():
            return _string(value)
    return json.dumps(value)


def _string(text: str) -> str:
    """Return text in quotes, in which nothing is a template."""
    quoted = json.dumps(text, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
    # Of the short escapes of JSON, these two are not HCL's.
    return _ESCAPE.sub(lambda found: {r"\b": r"\u0008", r"\f": r"\u000c"}.get(found.group(), found.group()), quoted)


def _cli_lines(grant: BucketGrants, roles: set[str]) -> Iterator[str]:
    who = grant.principal
    for role in grant.roles:
        if role.arn not in roles:
            yield f"# {role.key}; leave this out if the role is there"
            yield _command(
                "iam",
                "create-role",
                *("--role-name", role.name, "--path", role.path),
                *("--max-session-duration", str(role.session_limit_s)),
                *("--assume-role-policy-document", _compact(role.trust)),
            )
        roles.add(role.arn)
        yield f"# what {role.name} may do"
        yield _command(
            "iam",
            "put-role-policy",
            *("--role-name", role.name, "--policy-name", role.policy_name),
            *("--policy-document", _compact(role.policy)),
        )
    if who.is_reserved:
        yield f"# {_RESERVED.format(who.short_name)}\n# {_compact(grant.policy)}"
    else:
        yield f"# {who.kind} {who.name}"
        yield _command(
            "iam",
            f"put-{who.kind}-policy",
            *(f"--{who.kind}-name", who.short_name, "--policy-name", grant.policy_name),
            *("--policy-document", _compact(grant.policy)),
        )
    if grant.cors:
        yield f"# {_REPLACES}"
        rules = _compact(cors_document(grant.cors))
        yield _command("s3api", "put-bucket-cors", "--bucket", grant.access.bucket, "--cors-configuration", rules)


def _command(*words: str) -> str:
    """Return one command of the AWS CLI, an option a line."""
    quoted = [shlex.quote(word) for word in words]
    lines = [f"aws {quoted[0]} {quoted[1]}"]
    lines += [f"  {option} {value}" for option, value in zip(quoted[2::2], quoted[3::2], strict=True)]
    return " \\\n".join(lines)


def _compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
