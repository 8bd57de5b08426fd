"""``asyncstore bucket init`` and ``bucket policy``: what is printed, asked, and answered by the exit code."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import asyncstore
from asyncstore.bucket import BucketAccess, user_policy
from asyncstore.cli._app import run
from tests._aws_clients import aws_client
from tests._http_server import Asked, PlayedServer, serve_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.testing.servers import S3Server

    Configure = Callable[..., None]

ROOT = Path(asyncstore.__file__).parents[1]
ROLE = "arn:aws:iam::123456789012:role/uploads"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where there is no configuration, and reach nothing but the test's servers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


@pytest.fixture
def on_moto(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let all of AWS be moto, and give a client of its IAM."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint_url)
    return aws_client(moto, "iam")


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write a configuration with the given services on S3."""

    def write(log: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **more: Any) -> None:
        services: dict[str, Any] = {}
        if log:
            services["run_log_store"] = {"type": "chunked-s3", "config": log}
        if data:
            services["catalog"] = {"type": "s3", "config": data}
        Path("asyncstore.yaml").write_text(yaml.safe_dump({**services, **more}))
        monkeypatch.setenv("ASYNCSTORE_CONFIG", "asyncstore.yaml")

    return write


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command, and return what it prints."""

    def invoke(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run(["bucket", *words]) == code, capsys.readouterr()
        found = capsys.readouterr()
        return found.err if code else found.out

    return invoke


# bucket init


@pytest.mark.usefixtures("on_moto")
def test_init_says_what_it_did_and_then_that_nothing_is_left(printed: Callable[..., str]) -> None:
    name = f"cli-{uuid.uuid4().hex}"
    dry = printed("init", name, "--origin", "https://a.example", "--dry-run")
    assert "+ to create" in dry
    assert dry.endswith(f"s3://{name}: 5 changes to make; this was a dry run\n")
    first = printed("init", name, "--origin", "https://a.example")
    assert "✓ created" in first
    assert "no rules → https://a.example may transfer" in first
    assert "versioning: run logs are rewritten all the time" in first
    assert first.endswith(f"✓ s3://{name} is ready: 5 changes made\n")
    second = printed("init", name, "--origin", "https://a.example")
    assert second.endswith(f"✓ s3://{name} is ready, and was so before: nothing was changed\n")
    assert "→" not in second


@pytest.mark.usefixtures("on_moto")
def test_init_for_programs(printed: Callable[..., str]) -> None:
    name = f"cli-{uuid.uuid4().hex}"
    printed("init", name)
    found = json.loads(printed("init", name, "--expire-days", "30", "--prefix", "tmp", "--json"))
    assert (found["bucket"], found["existed"], found["dry_run"], found["changes"]) == (name, True, False, 1)
    (changed,) = [setting for setting in found["settings"] if setting["state"] == "changed"]
    assert (changed["setting"], changed["wanted"], changed["error"]) == ("expiry", "tmp/ after 30 days", None)


@pytest.mark.usefixtures("on_moto")
def test_init_makes_the_bucket_of_the_configuration(printed: Callable[..., str], configure: Configure) -> None:
    name, key = f"cli-{uuid.uuid4().hex}", "arn:aws:kms:us-west-2:123456789012:key/abc"
    configure({"s3_bucket": name, "region": "us-west-2"}, {"s3_bucket": name, "kms_key_arn": key})
    other = f"{name}-2"
    for words, bucket in (([], name), ([other], other)):
        found = json.loads(printed("init", *words, "--json"))
        assert (found["bucket"], found["region"]) == (bucket, "us-west-2")
        (encryption,) = [setting for setting in found["settings"] if setting["setting"] == "encryption"]
        assert (key in encryption["wanted"]) == (bucket == name)


def test_init_on_a_server_that_knows_few_settings(
    rclone: S3Server, printed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", rclone.endpoint_url)
    text = printed("init", f"cli-{uuid.uuid4().hex}")
    assert text.count("○ not supported by this server") == 3
    assert text.endswith("is ready: 1 change made; 3 settings this server cannot have\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["init"], 2, "no service of the configuration is on S3: name a bucket"),
        (["init", "s3://a"], 2, "no name of a bucket"),
        (["init", "data", "--origin", "a.example"], 2, "origin 'a.example' must be a scheme and a host"),
        (["init", "data", "--expire-days", "3"], 2, "--expire-days N --prefix PREFIX"),
        (["init", "data", "--endpoint-url", "ftp://a"], 2, "endpoint_url"),
        (["init", "data", "--profile", "admin"], 2, "aws_profile 'admin' does not exist"),
        (["policy"], 2, "no service of the configuration is on S3: name a bucket"),
        (["policy", "data", "--format", "yaml"], 2, "choose one of json, terraform, cli"),
        (["policy", "data", "--only", "all"], 2, "choose one of user-policy"),
        (["policy", "data", "--only", "cors"], 2, "give --origin URL"),
        (["policy", "data", "--only", "role-trust"], 2, "names no such role"),
        (["policy", "data", "--apply"], 2, "--user NAME"),
        (["policy", "s3://data"], 2, "no name of a bucket"),
        (["policy", "data", "--account", "1234-5678-9012"], 2, "12 digits"),
        (["policy", "data", "--user", "arn:aws:iam::123456789012:user/alice"], 2, "no name of an IAM user"),
        (["policy", "data", "--user", "a" * 65], 2, "no name of an IAM user"),
        (["policy", "data", "--prefix", "a/../b"], 2, "prefix 'a/../b' is not usable"),
        (["policy", "data", "--only", "user-policy", "--format", "terraform"], 2, "leave out --format terraform"),
        (["policy", "data", "--only", "user-policy", "--format", "cli"], 2, "leave out --format cli"),
        (["policy", "data", "--multipart-role", "no name"], 2, "neither the name nor the ARN of a role"),
    ],
)
def test_what_is_said_wrongly(printed: Callable[..., str], words: list[str], code: int, said: str) -> None:
    assert said in printed(*words, code=code)


def test_several_buckets_have_to_be_told_apart(printed: Callable[..., str], configure: Configure) -> None:
    configure({"s3_bucket": "logs"}, {"s3_bucket": "data"})
    assert "name one of data, logs" in printed("init", code=2)


# bucket policy


def test_policy_of_a_configuration(printed: Callable[..., str], configure: Configure) -> None:
    configure({"s3_bucket": "data", "prefix": "/team/logs/"}, {"s3_bucket": "data", "prefix": "team//files"})
    expected = user_policy(BucketAccess(bucket="data", prefixes=("team/logs/", "team/files/")))
    assert json.loads(printed("policy", "--only", "user-policy")) == expected
    (found,) = json.loads(printed("policy", "--json"))
    assert (found["bucket"], found["policy"], found["roles"], found["cors"]) == ("data", expected, [], None)
    text = printed("policy", "--user", "alice")
    assert text.startswith("# policy asyncstore-data, of user alice\n{")
    assert json.loads(text.partition("\n")[2]) == expected


def test_policy_fills_in_secrets(
    printed: Callable[..., str], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", "data-of-the-team")
    configure({"s3_bucket": "${WHERE}"}, secrets={"type": "env-secrets"})
    assert "arn:aws:s3:::data-of-the-team/*" in printed("policy")


def test_policy_of_a_store_that_is_only_read(printed: Callable[..., str], configure: Configure) -> None:
    configure({"s3_bucket": "data"}, allow_write=False)
    actions = [item["Action"] for item in json.loads(printed("policy", "--only", "user-policy"))["Statement"]]
    assert actions == [["s3:ListBucket"], ["s3:GetObject"]]


def test_prefixes_are_those_that_stores_make_of_them(printed: Callable[..., str]) -> None:
    for said, meant in (("/team//a/", "team/a/"), ("/", ""), ("team/a", "team/a/")):
        found = json.loads(printed("policy", "data", "--prefix", said, "--only", "user-policy"))
        assert found == user_policy(BucketAccess(bucket="data", prefixes=(meant,)))


def test_only_one_kind_for_programs(printed: Callable[..., str]) -> None:
    words = ("policy", "data", "--origin", "https://a.example", "--json", "--only")
    assert json.loads(printed(*words, "user-policy")) == [user_policy(BucketAccess(bucket="data"))]
    (xml,) = json.loads(printed(*words, "cors-xml"))
    assert xml.startswith("<?xml")


def several_stores(configure: Configure) -> None:
    def store(prefix: str, **more: Any) -> dict[str, Any]:
        return {"catalog": {"type": "s3", "config": {"s3_bucket": "data", "prefix": prefix}}, **more}

    main, scratch = store("a", default=True), store("c")
    configure(stores={"archive": store("b", allow_write=False), "main": main, "scratch": scratch})


def test_policy_is_for_every_store_or_the_one_that_is_named(printed: Callable[..., str], configure: Configure) -> None:
    several_stores(configure)
    expected = [
        user_policy(BucketAccess(bucket="data", prefixes=("b/",), writes=False)),
        user_policy(BucketAccess(bucket="data", prefixes=("a/", "c/"))),
    ]
    assert [grant["policy"] for grant in json.loads(printed("policy", "--json"))] == expected
    assert [grant["policy_name"] for grant in json.loads(printed("policy", "--json"))] == [
        "asyncstore-data",
        "asyncstore-data+2",
    ]
    one = json.loads(printed("policy", "--store", "main", "--only", "user-policy"))
    assert one == user_policy(BucketAccess(bucket="data", prefixes=("a/",)))


def test_a_store_that_is_granted_takes_nothing_from_another(
    on_moto: Any, printed: Callable[..., str], configure: Configure
) -> None:
    several_stores(configure)
    user = f"user-{uuid.uuid4().hex[:8]}"
    on_moto.create_user(UserName=user)
    words = ("policy", "--user", user, "--apply", "--yes")
    printed(*words, "--store", "main")
    text = printed(*words, "--store", "scratch")
    assert "kept (--force takes it away): " in text
    assert "data/a/*" in text

    def granted() -> str:
        return json.dumps(on_moto.get_user_policy(UserName=user, PolicyName="asyncstore-data")["PolicyDocument"])

    assert "arn:aws:s3:::data/a/*" in granted()
    assert "arn:aws:s3:::data/c/*" in granted()
    printed(*words, "--store", "scratch", "--force")
    assert "arn:aws:s3:::data/a/*" not in granted()


def test_policies_of_several_buckets(printed: Callable[..., str], configure: Configure) -> None:
    configure({"s3_bucket": "logs"}, {"s3_bucket": "data", "multipart_upload_role_arn": ROLE})
    words = ("--user", "alice", "--account", "123456789012")
    found = json.loads(printed("policy", *words, "--json"))
    assert [grant["bucket"] for grant in found] == ["logs", "data"]
    (role,) = found[1]["roles"]
    assert (role["name"], role["key"]) == ("uploads", "multipart_upload_role_arn")
    assert role["trust"]["Statement"][0]["Principal"] == {"AWS": "arn:aws:iam::123456789012:user/alice"}
    (only,) = json.loads(printed("policy", "data", *words, "--json"))
    assert only == found[1]


@pytest.mark.usefixtures("on_moto")
def test_policy_asks_sts_for_the_account(printed: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy", "data", "--multipart-role", "uploads", "--only", "multipart-role-trust"]
    trust = json.loads(printed(*words, "--user", "alice"))
    assert trust["Statement"][0]["Principal"] == {"AWS": "arn:aws:iam::123456789012:user/alice"}
    assert run(["bucket", *words]) == 0
    assert "whose credentials are in use here; --user names another one" in capsys.readouterr().err


def test_who_uses_identity_center_is_told_where_the_policy_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AWSReservedSSO_Developer_0123456789abcdef"
    session = f"<Arn>arn:aws:sts::123456789012:assumed-role/{name}/alice</Arn>"

    def answer(asked: Asked) -> bytes:
        found = b"GetCallerIdentity" in asked.body
        body = f"<GetCallerIdentityResponse><GetCallerIdentityResult>{session}</GetCallerIdentityResult>"
        said = f"{body}</GetCallerIdentityResponse>" if found else "<ErrorResponse><Error><Code>AccessDenied</Code>"
        said += "" if found else "<Message>no</Message></Error></ErrorResponse>"
        status = "200 OK" if found else "403 Forbidden"
        return f"HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {len(said)}\r\n\r\n{said}".encode()

    with PlayedServer(serve_all(answer)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        assert run(["bucket", "policy", "data", "--multipart-role", "uploads", "--format", "cli"]) == 0
    out, err = capsys.readouterr()
    assert "aws iam put-role-policy" in out
    assert f"--role-name {name}" not in out
    assert f"no policy can be added to role {name}" in err
    assert f"IAM could not be asked for the path of role {name}" in err


def test_policy_without_sts_leaves_its_places_open(
    printed: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert run(["bucket", "policy", "data", "--multipart-role", "uploads"]) == 0
    found = capsys.readouterr()
    assert "arn:aws:iam::ACCOUNTNUMBER:user/USERNAME" in found.out
    assert "STS could not be asked" in found.err
    assert "--account NUMBER" in found.err


def test_policy_in_other_forms(printed: Callable[..., str]) -> None:
    words = ("policy", "data", "--origin", "https://a.example", "--user", "alice")
    terraform = printed(*words, "--format", "terraform")
    assert 'resource "aws_iam_user_policy" "asyncstore_data" {' in terraform
    assert 'resource "aws_s3_bucket_cors_configuration" "asyncstore_data" {' in terraform
    assert json.loads(printed(*words, "--format", "terraform", "--json")) == {"terraform": terraform.rstrip()}
    commands = printed(*words, "--format", "cli")
    assert "aws iam put-user-policy" in commands
    assert "aws s3api put-bucket-cors" in commands
    assert printed(*words, "--only", "cors-xml").startswith('<?xml version="1.0"')
    (rule,) = json.loads(printed(*words, "--only", "cors"))
    assert rule["AllowedOrigins"] == ["https://a.example"]
    full = json.loads(printed(*words, "--full-access", "--only", "user-policy"))
    assert full["Statement"][0]["Action"] == ["s3:*"]


def test_apply_grants_what_is_printed(on_moto: Any, printed: Callable[..., str]) -> None:
    user, role = f"user-{uuid.uuid4().hex[:8]}", f"role-{uuid.uuid4().hex[:8]}"
    words = ("policy", "data", "--prefix", "logs", "--multipart-role", role, "--user", user)
    assert f"there is no user '{user}'" in printed(*words, "--apply", "--yes", code=3)
    on_moto.create_user(UserName=user)
    dry = printed(*words, "--apply", "--dry-run")
    assert dry.endswith("3 changes to make in IAM; this was a dry run\n")
    assert on_moto.list_user_policies(UserName=user)["PolicyNames"] == []
    assert "give --yes" in printed(*words, "--apply", code=2)
    assert on_moto.list_user_policies(UserName=user)["PolicyNames"] == []

    assert printed(*words, "--apply", "--yes").endswith("✓ granted: 3 changes made\n")
    expected = json.loads(printed(*words, "--only", "user-policy"))
    assert on_moto.get_user_policy(UserName=user, PolicyName="asyncstore-data")["PolicyDocument"] == expected
    there = on_moto.get_role_policy(RoleName=role, PolicyName="asyncstore-data")["PolicyDocument"]
    assert there == json.loads(printed(*words, "--only", "multipart-role-policy"))
    trust = on_moto.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
    assert trust == json.loads(printed(*words, "--only", "multipart-role-trust"))

    assert printed(*words, "--apply").endswith("✓ granted already: nothing was changed\n")
    steps = json.loads(printed(*words, "--apply", "--yes", "--json"))["steps"]
    assert {step["state"] for step in steps} == {"as wanted"}


@pytest.mark.parametrize(("answer", "code", "granted"), [("y", 0, ["asyncstore-data"]), ("n", 1, [])])
def test_apply_asks_on_a_terminal(moto: S3Server, on_moto: Any, answer: str, code: int, granted: list[str]) -> None:
    user = f"user-{uuid.uuid4().hex[:8]}"
    on_moto.create_user(UserName=user)
    ours, theirs = pty.openpty()
    words = ["bucket", "policy", "data", "--user", user, "--apply"]
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "asyncstore.cli", *words],
            stdin=theirs,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "policy asyncstore-data of user" in done.stderr
    assert "Make this change in IAM? [y/N]" in done.stderr
    assert on_moto.list_user_policies(UserName=user)["PolicyNames"] == granted
