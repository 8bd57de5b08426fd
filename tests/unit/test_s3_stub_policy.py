from __future__ import annotations

from typing import Any

import pytest

from asyncstore.testing.s3_stub._policy import Permission, Policy, policy_for

BUCKET = "arn:aws:s3:::logs"


def statement(**said: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*", **said}


def policy(*statements: dict[str, Any]) -> Policy:
    return Policy.of({"Version": "2012-10-17", "Statement": list(statements)})


def allows(found: Policy, action: str, resource: str, **context: str) -> bool:
    return found.allows(Permission(action, resource, {f"s3:{name}": value for name, value in context.items()}))


@pytest.mark.parametrize(
    ("said", "action", "resource", "expected"),
    [
        ({}, "s3:GetObject", f"{BUCKET}/a/b", True),
        ({}, "s3:PutObject", f"{BUCKET}/a", False),
        ({}, "s3:GetObject", "arn:aws:s3:::logs2/a", False),
        ({"Action": "S3:getobject"}, "s3:GetObject", f"{BUCKET}/a", True),
        ({"Action": ["s3:Get*"]}, "s3:GetObjectTagging", f"{BUCKET}/a", True),
        ({"Action": "s3:?etObject"}, "s3:GetObject", f"{BUCKET}/a", True),
        ({"Action": "*", "Resource": "*"}, "kms:Decrypt", "arn:aws:kms:eu-west-1:1:key/a", True),
        ({"Resource": f"{BUCKET}/A*"}, "s3:GetObject", f"{BUCKET}/a", False),
        ({"Resource": [f"{BUCKET}/x/*", f"{BUCKET}/y/*"]}, "s3:GetObject", f"{BUCKET}/y/a", True),
        ({"Resource": f"{BUCKET}/${{*}}/*"}, "s3:GetObject", f"{BUCKET}/*/a", True),
        ({"Resource": f"{BUCKET}/${{*}}/*"}, "s3:GetObject", f"{BUCKET}/x/a", False),
        ({"Resource": f"{BUCKET}/a.c"}, "s3:GetObject", f"{BUCKET}/abc", False),
        ({"Effect": "Deny"}, "s3:GetObject", f"{BUCKET}/a", False),
    ],
)
def test_a_statement(said: dict[str, Any], action: str, resource: str, expected: bool) -> None:
    assert allows(policy(statement(**said)), action, resource) is expected


def test_the_opposites() -> None:
    said = statement(NotAction="s3:DeleteObject", NotResource=f"{BUCKET}/private/*")
    del said["Action"], said["Resource"]
    found = policy(said)
    assert allows(found, "s3:GetObject", f"{BUCKET}/a")
    assert not allows(found, "s3:DeleteObject", f"{BUCKET}/a")
    assert not allows(found, "s3:GetObject", f"{BUCKET}/private/a")


def test_what_is_denied_nothing_allows() -> None:
    found = policy(statement(), statement(Effect="Deny", Resource=f"{BUCKET}/private/*"), statement(Action="s3:*"))
    assert allows(found, "s3:GetObject", f"{BUCKET}/a")
    assert not allows(found, "s3:GetObject", f"{BUCKET}/private/a")


@pytest.mark.parametrize(
    ("condition", "context", "expected"),
    [
        ({"StringLike": {"s3:prefix": "team/*"}}, {"prefix": "team/"}, True),
        ({"StringLike": {"s3:prefix": ["team/*", "other/*"]}}, {"prefix": "other/a"}, True),
        ({"StringLike": {"s3:prefix": "team/*"}}, {"prefix": "te"}, False),
        ({"StringLike": {"s3:prefix": "team/*"}}, {}, False),
        ({"StringLikeIfExists": {"s3:prefix": "team/*"}}, {}, True),
        ({"StringLikeIfExists": {"s3:prefix": "team/*"}}, {"prefix": ""}, False),
        ({"StringEquals": {"s3:prefix": "team/*"}}, {"prefix": "team/a"}, False),
        ({"StringNotEquals": {"s3:prefix": "team"}}, {"prefix": "team"}, False),
        ({"StringNotLike": {"s3:prefix": "team/*"}}, {}, True),
        ({"StringEquals": {"S3:Prefix": "a"}}, {"prefix": "a"}, True),
        ({"ForAnyValue:StringEquals": {"s3:prefix": ["a", "b"]}}, {"prefix": "b"}, True),
        ({"ForAnyValue:StringEquals": {"s3:prefix": ["a", "b"]}}, {}, False),
        ({"Bool": {"s3:secure": True}}, {"secure": "true"}, True),
        ({"StringLike": {"s3:prefix": "a*"}, "StringEquals": {"s3:delimiter": "/"}}, {"prefix": "a"}, False),
    ],
)
def test_conditions(condition: dict[str, Any], context: dict[str, str], expected: bool) -> None:
    found = policy(statement(Action="s3:ListBucket", Resource=BUCKET, Condition=condition))
    assert allows(found, "s3:ListBucket", BUCKET, **context) is expected


BROKEN: list[dict[str, Any]] = [
    {"Effect": "allow"},
    {"Principal": "*"},
    {"Action": []},
    {"Action": "GetObject"},
    {"Action": "s3:Get Object"},
    {"NotAction": "s3:PutObject"},
    {"Resource": "logs/*"},
    {"Resource": None},
    {"Sid": "not allowed"},
    {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
]


@pytest.mark.parametrize(
    "document",
    [
        {"Statement": [statement()]},
        {"Version": "2008-10-17", "Statement": [statement()]},
        {"Version": "2012-10-17"},
        {"Version": "2012-10-17", "Statement": []},
        {"Version": "2012-10-17", "Statement": [statement()], "Statements": []},
        *({"Version": "2012-10-17", "Statement": [statement(**said)]} for said in BROKEN),
        {"Version": "2012-10-17", "Statement": [statement(Resource=[f"{BUCKET}/{n:04}{'x' * 60}" for n in range(90)])]},
    ],
)
def test_what_is_not_understood_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Policy.of(document)


def test_policy_variables_are_refused() -> None:
    found = policy(statement(Resource=f"{BUCKET}/${{aws:username}}/*"))
    with pytest.raises(ValueError, match="aws:username"):
        allows(found, "s3:GetObject", f"{BUCKET}/a")


def test_policies_are_chosen_by_access_key() -> None:
    reading = {"Version": "2012-10-17", "Statement": [statement()]}
    writing = {"Version": "2012-10-17", "Statement": [statement(Action="s3:PutObject")]}
    policies = {"ASIA*": writing, "AKIA1": reading}
    wanted = Permission("s3:GetObject", f"{BUCKET}/a")
    reader, writer = policy_for(policies, "AKIA1"), policy_for(policies, "ASIA2")
    assert reader is not None
    assert writer is not None
    assert (reader.allows(wanted), writer.allows(wanted)) == (True, False)
    assert policy_for(policies, "AKIA2") is None
