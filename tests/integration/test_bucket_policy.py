"""Grants made true in moto's IAM: what is there afterwards, and whom STS says we are."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket import (
    BucketAccess,
    GrantStep,
    State,
    apply_grants,
    caller,
    find_user,
    grants_of,
    multipart_role_policy,
    plan_grants,
    role_policy,
    trust_policy,
    user_policy,
)
from asyncstore.bucket._union import besides
from asyncstore.errors import AccessDeniedError, CredentialsError, NotFoundError
from tests._aws_clients import aws_client
from tests._http_server import Asked, PlayedServer, serve_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.bucket import BucketGrants
    from asyncstore.testing.servers import S3Server

ACCOUNT = "123456789012"


@dataclass(frozen=True)
class Iam:
    """Moto's IAM with a user of its own, seen by botocore's own client."""

    client: Any
    settings: AwsSettings
    user: str
    name: str

    def access(self, **options: Any) -> BucketAccess:
        return BucketAccess(bucket="data", prefixes=("logs/",), **options)

    def role(self, name: str) -> str:
        return f"arn:aws:iam::{ACCOUNT}:role/team/{self.name}-{name}"

    def user_policies(self) -> dict[str, Any]:
        names = self.client.list_user_policies(UserName=self.user)["PolicyNames"]
        found = [self.client.get_user_policy(UserName=self.user, PolicyName=name) for name in names]
        return {policy["PolicyName"]: policy["PolicyDocument"] for policy in found}

    def role_policies(self, role: str) -> dict[str, Any]:
        names = self.client.list_role_policies(RoleName=role)["PolicyNames"]
        found = [self.client.get_role_policy(RoleName=role, PolicyName=name) for name in names]
        return {policy["PolicyName"]: policy["PolicyDocument"] for policy in found}


@pytest.fixture
async def iam(moto: S3Server) -> Iam:
    """Return IAM with a new user."""
    return await asyncio.to_thread(make_iam, moto)


def make_iam(moto: S3Server) -> Iam:
    name = uuid.uuid4().hex[:12]
    client = aws_client(moto, "iam")
    client.create_user(UserName=f"user-{name}", Path="/workers/")
    return Iam(client, AwsSettings(endpoint_url=moto.endpoint_url), f"user-{name}", name)


async def granted(iam: Iam, *grants: BucketGrants, force: bool = False) -> list[GrantStep]:
    return await apply_grants(await plan_grants(grants, iam.settings, force=force), iam.settings)


async def grant_for(iam: Iam, **options: Any) -> BucketGrants:
    return grants_of(iam.access(principal=await find_user(iam.user, iam.settings), **options))


async def test_a_user_is_found_with_path_and_account(iam: Iam) -> None:
    user = await find_user(iam.user, iam.settings)
    assert user.arn == f"arn:aws:iam::{ACCOUNT}:user/workers/{iam.user}"
    assert user.short_name == iam.user
    assert await find_user(f"workers/{iam.user}", iam.settings) == user
    with pytest.raises(NotFoundError, match="create it with 'aws iam create-user --user-name nobody'"):
        await find_user("nobody", iam.settings)


async def test_sts_says_who_we_are(iam: Iam) -> None:
    assert (await caller(iam.settings)).account_id == ACCOUNT


async def test_who_we_are_is_asked_with_our_own_keys_and_not_with_the_role(iam: Iam) -> None:
    settings = AwsSettings(endpoint_url=iam.settings.endpoint_url, role_arn=iam.role("worker"))
    assert (await caller(settings)).kind == "user"


def as_session(of: str, iam_says: bytes) -> Callable[[Asked], bytes]:
    """Answer as STS does to the session of a role, and as IAM does with what it says."""

    def answer(asked: Asked) -> bytes:
        said = f"<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>{of}</Arn></GetCallerIdentityResult>"
        body = f"{said}</GetCallerIdentityResponse>".encode()
        status = b"200 OK"
        if b"Action=GetRole" in asked.body:
            body, status = iam_says, b"200 OK" if b"<Arn>" in iam_says else b"403 Forbidden"
        head = b"HTTP/1.1 %s\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        return head + body

    return answer


async def test_the_path_of_a_sessions_role_is_asked_of_iam() -> None:
    session = f"arn:aws:sts::{ACCOUNT}:assumed-role/worker/i-1"
    arn = f"arn:aws:iam::{ACCOUNT}:role/team/worker"
    found = f"<GetRoleResponse><GetRoleResult><Role><Arn>{arn}</Arn></Role></GetRoleResult></GetRoleResponse>"
    denied = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
    for iam_says, known, is_complete in (
        (found.encode(), arn, True),
        (denied, f"arn:aws:iam::{ACCOUNT}:role/worker", False),
    ):
        with PlayedServer(serve_all(as_session(session, iam_says))) as server:
            who = await caller(AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}"))
        assert (who.arn, who.is_complete) == (known, is_complete)


async def test_a_users_policy_is_granted_once(iam: Iam) -> None:
    grant = await grant_for(iam)
    (planned,) = await plan_grants([grant], iam.settings)
    assert planned.state is State.TO_CHANGE
    assert await asyncio.to_thread(iam.user_policies) == {}

    assert [step.state for step in await granted(iam, grant)] == [State.CHANGED]
    assert await asyncio.to_thread(iam.user_policies) == {"asyncstore-data": user_policy(grant.access)}
    assert [step.state for step in await granted(iam, grant)] == [State.FINE]


async def test_what_another_store_was_granted_stays(iam: Iam) -> None:
    first = await grant_for(iam, multipart_role_arn=iam.role("uploads"))
    other = grants_of(replace(first.access, prefixes=("files/",), role_arn=iam.role("worker")))
    role = first.roles[0].name
    for grant in (first, other):
        await granted(iam, grant)
    (policy,) = (await asyncio.to_thread(iam.user_policies)).values()
    (of_role,) = (await asyncio.to_thread(iam.role_policies, role)).values()
    for grant in (first, other):
        assert besides(grant.policy, policy) == []
        assert besides(grant.roles[-1].policy, of_role) == []
    for document in (policy, of_role):
        names = [statement["Sid"] for statement in document["Statement"]]
        assert len(set(names)) == len(names)

    steps = await granted(iam, first)
    assert {step.state for step in steps} == {State.FINE, State.KEPT}
    assert "kept (--force takes it away): sts:AssumeRole on" in steps[-1].why
    assert not any(step.operation for step in steps)
    steps = await granted(iam, first, force=True)
    assert "taken away: sts:AssumeRole on" in steps[-1].why
    assert await asyncio.to_thread(iam.user_policies) == {"asyncstore-data": first.policy}


async def test_a_policy_that_has_changed_is_replaced_by_force_and_others_stay(iam: Iam) -> None:
    theirs = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
    put = iam.client.put_user_policy
    for name in ("theirs", "asyncstore-data"):
        await asyncio.to_thread(put, UserName=iam.user, PolicyName=name, PolicyDocument=json.dumps(theirs))
    grant = await grant_for(iam)
    (step,) = await granted(iam, grant, force=True)
    assert (step.state, step.found, step.why) == (State.CHANGED, "sqs:*", "taken away: sqs:* on *")
    expected = {"theirs": theirs, "asyncstore-data": user_policy(grant.access)}
    assert await asyncio.to_thread(iam.user_policies) == expected


async def test_roles_are_made_with_policy_trust_and_long_enough_sessions(iam: Iam) -> None:
    worker, uploads = iam.role("worker"), iam.role("uploads")
    grant = await grant_for(iam, role_arn=worker, multipart_role_arn=uploads, session_duration_s=7200)
    steps = await granted(iam, grant)
    assert {step.state for step in steps} == {State.CHANGED}
    assert len(steps) == 5
    for arn, policy in ((worker, role_policy), (uploads, multipart_role_policy)):
        name = arn.rpartition("/")[2]
        role = (await asyncio.to_thread(iam.client.get_role, RoleName=name))["Role"]
        assert (role["Arn"], role["Path"], role["MaxSessionDuration"]) == (arn, "/team/", 7200)
        assert role["AssumeRolePolicyDocument"] == trust_policy(grant.principal)
        assert await asyncio.to_thread(iam.role_policies, name) == {"asyncstore-data": policy(grant.access)}
    assert {step.state for step in await granted(iam, grant)} == {State.FINE}


async def test_a_role_that_two_buckets_share_is_made_once(iam: Iam) -> None:
    first = await grant_for(iam, multipart_role_arn=iam.role("uploads"))
    second = grants_of(replace(first.access, bucket="other"))
    steps = await granted(iam, first, second)
    assert [step.operation for step in steps].count("create_role") == 1
    assert [step.error for step in steps if step.error] == []
    name = first.roles[0].name
    assert set(await asyncio.to_thread(iam.role_policies, name)) == {"asyncstore-data", "asyncstore-other"}


async def test_those_who_may_take_on_a_role_still_may(iam: Iam) -> None:
    grant = await grant_for(iam, multipart_role_arn=iam.role("uploads"))
    name = grant.roles[0].name
    theirs = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    await asyncio.to_thread(iam.client.create_role, RoleName=name, AssumeRolePolicyDocument=trust)
    steps = await granted(iam, grant)
    assert {step.state for step in steps} == {State.CHANGED}
    role = (await asyncio.to_thread(iam.client.get_role, RoleName=name))["Role"]
    said = role["AssumeRolePolicyDocument"]["Statement"]
    assert said == [theirs, *trust_policy(grant.principal)["Statement"]]
    assert {step.state for step in await granted(iam, grant)} == {State.FINE}


async def test_conditions_of_a_trust_are_dropped_by_force_alone(iam: Iam) -> None:
    grant = await grant_for(iam, multipart_role_arn=iam.role("uploads"))
    name = grant.roles[0].name
    ours = trust_policy(grant.principal)["Statement"][0]
    strict = {**ours, "Condition": {"StringEquals": {"sts:ExternalId": "x"}}}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [strict]})
    await asyncio.to_thread(iam.client.create_role, RoleName=name, AssumeRolePolicyDocument=trust)

    async def statements() -> Any:
        role = (await asyncio.to_thread(iam.client.get_role, RoleName=name))["Role"]
        return role["AssumeRolePolicyDocument"]["Statement"]

    assert (await granted(iam, grant))[0].state is State.KEPT
    assert await statements() == [strict]
    assert (await granted(iam, grant, force=True))[0].state is State.CHANGED
    assert await statements() == [strict, ours]


async def test_a_role_of_another_account_is_left_to_its_owner(iam: Iam) -> None:
    grant = await grant_for(iam, multipart_role_arn="arn:aws:iam::999999999999:role/uploads")
    role, policy = await granted(iam, grant)
    assert (role.state, policy.state) == (State.KEPT, State.CHANGED)
    assert "account 999999999999" in role.why


# What IAM refuses; it is not to be had from moto.


def refusing(operation: str, status: int, code: str) -> Callable[[Asked], bytes]:
    """Answer one action so, and any other as if there were nothing of what is asked for."""

    def answer(asked: Asked) -> bytes:
        mine = f"Action={operation}" in asked.body.decode()
        said = (status, code) if mine else (404, "NoSuchEntity")
        body = f"<ErrorResponse><Error><Code>{said[1]}</Code><Message>it says why</Message></Error></ErrorResponse>"
        head = f"HTTP/1.1 {said[0]} Other\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        return (head + body).encode()

    return answer


async def test_what_is_denied_is_told_and_the_rest_is_tried() -> None:
    access = BucketAccess(bucket="data", multipart_role_arn=f"arn:aws:iam::{ACCOUNT}:role/uploads")
    with PlayedServer(serve_all(refusing("CreateRole", 403, "AccessDenied"))) as server:
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}")
        steps = await plan_grants([grants_of(access)], settings)
        assert {step.state for step in steps} == {State.TO_CHANGE}
        done = await apply_grants(steps, settings)
    assert {step.state for step in done} == {State.FAILED}
    assert [type(step.error) for step in done] == [AccessDeniedError, NotFoundError, NotFoundError]
    assert "it says why" in str(done[0].error)


@pytest.mark.parametrize(
    ("code", "kind"), [("AccessDenied", AccessDeniedError), ("InvalidClientTokenId", CredentialsError)]
)
async def test_what_may_not_be_read_is_an_error(code: str, kind: type[Exception]) -> None:
    with PlayedServer(serve_all(refusing("GetUserPolicy", 403, code))) as server:
        settings = AwsSettings(endpoint_url=f"http://127.0.0.1:{server.port}")
        with pytest.raises(kind):
            await plan_grants([grants_of(BucketAccess(bucket="data"))], settings)
