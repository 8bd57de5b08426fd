"""Policies, trust relationships and CORS rules: what they grant, and how other tools' languages say them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import botocore.session
import pytest

import asyncstore.bucket
from asyncstore.bucket._union import besides, united
from asyncstore.bucket.cors import CorsRule, check_origin, cors_document, cors_rules, cors_xml
from asyncstore.bucket.documents import (
    PERMISSIONS,
    BucketAccess,
    Principal,
    multipart_role_policy,
    partition_of,
    permissions_of,
    role_policy,
    statement_for,
    trust_policy,
    user_policy,
)
from asyncstore.bucket.grants import BucketGrants, grants_of, principal_of, role_arn_of
from asyncstore.bucket.rendering import as_aws_cli, as_terraform
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

# What the guide "Use a private S3 bucket for data storage" prints.
GUIDE_CORS = """
<?xml version="1.0" encoding="UTF-8"?>
<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
    <CORSRule>
        <AllowedOrigin>*</AllowedOrigin>
        <AllowedMethod>GET</AllowedMethod>
        <MaxAgeSeconds>3000</MaxAgeSeconds>
        <AllowedHeader>Authorization</AllowedHeader>
    </CORSRule>
    <CORSRule>
        <AllowedOrigin>https://app.valohai.com</AllowedOrigin>
        <AllowedMethod>POST</AllowedMethod>
        <MaxAgeSeconds>3000</MaxAgeSeconds>
        <AllowedHeader>Authorization</AllowedHeader>
    </CORSRule>
</CORSConfiguration>
"""
GUIDE_USER_POLICY = """
   {
       "Version": "2012-10-17",
       "Statement": [
           {
               "Sid": "AllowBucketAccess",
               "Effect": "Allow",
               "Action": [
                   "s3:*"
               ],
               "Resource": [
                   "arn:aws:s3:::my-valohai-bucket",
                   "arn:aws:s3:::my-valohai-bucket/*"
               ]
           },
           {
               "Sid": "AllowListAccess",
               "Effect": "Allow",
               "Action": [
                   "s3:ListAllMyBuckets"
               ],
               "Resource": [
                   "arn:aws:s3:::*"
               ]
           }
       ]
   }
"""
GUIDE_ROLE_POLICY = """
   {
       "Version": "2012-10-17",
       "Statement": [
           {
               "Sid": "MultipartAccess",
               "Effect": "Allow",
               "Action": [
                   "s3:AbortMultipartUpload",
                   "s3:GetObject",
                   "s3:ListBucket",
                   "s3:ListBucketMultipartUploads",
                   "s3:ListBucketVersions",
                   "s3:ListMultipartUploadParts",
                   "s3:PutObject"
               ],
               "Resource": [
                   "arn:aws:s3:::BUCKET",
                   "arn:aws:s3:::BUCKET/*"
               ]
           }
       ]
   }
"""
GUIDE_TRUST = """
   {
     "Version": "2012-10-17",
     "Statement": [
       {
         "Effect": "Allow",
         "Principal": {
           "AWS": "arn:aws:iam::ACCOUNTNUMBER:user/USERNAME"
         },
         "Action": "sts:AssumeRole"
       }
     ]
   }
"""

ROLE = "arn:aws:iam::123456789012:role/workers/reader"
UPLOADS = "arn:aws:iam::123456789012:role/uploads"
KEY = "arn:aws:kms:eu-west-1:123456789012:key/abc"
ALICE = Principal("alice", "123456789012")
RICH = BucketAccess(
    bucket="data",
    prefixes=("logs/", "te$am*?/"),
    kms_keys=(KEY, "alias/other"),
    object_tags=True,
    role_arn=ROLE,
    multipart_role_arn=UPLOADS,
    principal=ALICE,
    session_duration_s=7200,
)


def actions(policy: dict[str, Any]) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


def granting(policy: dict[str, Any], action: str) -> dict[str, Any]:
    (found,) = [statement for statement in policy["Statement"] if action in statement["Action"]]
    return dict(found)


def test_the_documents_of_the_guide() -> None:
    access = BucketAccess(bucket="my-valohai-bucket")
    assert user_policy(access, full_access=True) == json.loads(GUIDE_USER_POLICY)
    assert multipart_role_policy(BucketAccess(bucket="BUCKET"), full_access=True) == json.loads(GUIDE_ROLE_POLICY)
    assert trust_policy(Principal()) == json.loads(GUIDE_TRUST)
    assert cors_xml(cors_rules(["https://app.valohai.com"], full_access=True)) == GUIDE_CORS.strip()


def test_a_whole_bucket() -> None:
    policy = user_policy(BucketAccess(bucket="data"))
    assert actions(policy) == {
        *("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
        *("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads"),
    }
    assert "Condition" not in granting(policy, "s3:ListBucket")
    assert granting(policy, "s3:GetObject")["Resource"] == ["arn:aws:s3:::data/*"]
    assert granting(policy, "s3:ListBucket")["Resource"] == ["arn:aws:s3:::data"]


def test_prefixes_limit_objects_and_listings() -> None:
    policy = user_policy(BucketAccess(bucket="data", prefixes=("team/logs/", "team/data/")))
    assert granting(policy, "s3:PutObject")["Resource"] == [
        "arn:aws:s3:::data/team/data/*",
        "arn:aws:s3:::data/team/logs/*",
    ]
    listing = granting(policy, "s3:ListBucket")
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["team/data/*", "team/logs/*"]}}


@pytest.mark.parametrize(
    ("prefixes", "left"),
    [
        (("", "logs/"), ("",)),
        (("logs/", "logs/team/", "data/"), ("data/", "logs/")),
        (("logs/", "logs/"), ("logs/",)),
        (("logs/", "logs-2/"), ("logs-2/", "logs/")),
        ((), ("",)),
    ],
)
def test_a_prefix_within_another_says_nothing_new(prefixes: tuple[str, ...], left: tuple[str, ...]) -> None:
    assert set(BucketAccess(bucket="data", prefixes=prefixes).prefixes) == set(left)


def test_signs_of_patterns_are_meant_literally() -> None:
    policy = user_policy(BucketAccess(bucket="data", prefixes=("te$am*?/",)))
    assert granting(policy, "s3:GetObject")["Resource"] == ["arn:aws:s3:::data/te${$}am${*}${?}/*"]


def test_tags_and_keys_are_granted_where_they_are_used() -> None:
    plain = user_policy(BucketAccess(bucket="data"))
    rich = user_policy(BucketAccess(bucket="data", object_tags=True, kms_keys=(KEY,)))
    assert actions(rich) - actions(plain) == {"s3:PutObjectTagging", "kms:GenerateDataKey", "kms:Decrypt"}
    key = granting(rich, "kms:Decrypt")
    assert key["Resource"] == [KEY]
    assert key["Condition"] == {"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}


def test_an_alias_is_said_in_a_condition() -> None:
    policy = user_policy(BucketAccess(bucket="data", kms_keys=("alias/mine",), principal=ALICE))
    key = granting(policy, "kms:Decrypt")
    assert key["Resource"] == ["arn:aws:kms:eu-west-1:123456789012:key/*"]
    assert key["Condition"]["ForAnyValue:StringEquals"] == {"kms:ResourceAliases": "alias/mine"}


def test_a_store_that_is_only_read_needs_no_more_than_that() -> None:
    access = BucketAccess(bucket="data", kms_keys=(KEY,), object_tags=True, writes=False)
    assert actions(user_policy(access)) == {"s3:ListBucket", "s3:GetObject", "kms:Decrypt"}
    assert {permission.action for permission in permissions_of(access)} == actions(user_policy(access))


def test_a_role_of_its_own_takes_uploads_in_parts_over() -> None:
    access = BucketAccess(bucket="data", prefixes=("logs/",), multipart_role_arn=UPLOADS)
    parts = {"s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads"}
    own, role = user_policy(access), multipart_role_policy(access)
    assert not parts & actions(own)
    assert granting(own, "sts:AssumeRole")["Resource"] == [UPLOADS]
    assert actions(role) == parts | {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}
    assert granting(role, "s3:PutObject")["Resource"] == ["arn:aws:s3:::data/logs/*"]
    whole = multipart_role_policy(replace(access, prefixes=("",)))
    assert actions(whole) == actions(role)
    assert granting(whole, "s3:PutObject")["Resource"] == ["arn:aws:s3:::data/*"]


def test_where_a_role_does_the_work_the_user_may_take_it_on_and_nothing_else() -> None:
    own, role, uploads = user_policy(RICH), role_policy(RICH), multipart_role_policy(RICH)
    assert own["Statement"] == [
        {"Sid": "AssumeRoles", "Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": [ROLE, UPLOADS]}
    ]
    # The role for uploads is taken on by the user's own keys.
    assert "sts:AssumeRole" not in actions(role)
    assert actions(role) | actions(own) | actions(uploads) == {item.action for item in permissions_of(RICH)}


@pytest.mark.parametrize("action", PERMISSIONS)
def test_one_action_is_granted_alone(action: str) -> None:
    for access in (RICH, BucketAccess(bucket="data")):
        statement = statement_for(action, access)
        assert statement["Action"] == [action]
        assert statement["Effect"] == "Allow"
        assert statement["Resource"]
    own = {statement["Sid"]: statement for statement in user_policy(replace(RICH, role_arn=""))["Statement"]}
    if found := own.get(statement_for(action, RICH)["Sid"]):
        said = statement_for(action, replace(RICH, role_arn=""))
        assert {**found, "Action": [action]} == said


def test_every_session_of_aws_has_its_partition() -> None:
    session = botocore.session.Session()
    for partition in session.get_available_partitions():
        for region in session.get_available_regions("s3", partition):
            assert partition_of(region) == partition
    assert partition_of("us-iso-east-1") == "aws-iso"
    assert partition_of("somewhere") == "aws"
    china = BucketAccess(bucket="data", region="cn-north-1", kms_keys=("abc",))
    assert china.bucket_arn == "arn:aws-cn:s3:::data"
    via = granting(user_policy(china), "kms:Decrypt")["Condition"]["StringEquals"]["kms:ViaService"]
    assert via == "s3.cn-north-1.amazonaws.com.cn"


def test_sids_are_what_iam_takes() -> None:
    keys = ("alias/a", "alias/b", KEY)
    policy = user_policy(BucketAccess(bucket="data", kms_keys=keys, object_tags=True, multipart_role_arn=UPLOADS))
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)


# Who it is for.


@pytest.mark.parametrize(
    ("arn", "principal"),
    [
        ("arn:aws:iam::123456789012:user/alice", Principal("alice", "123456789012")),
        ("arn:aws:iam::123456789012:user/team/alice", Principal("team/alice", "123456789012")),
        ("arn:aws-cn:sts::123456789012:assumed-role/web/i-1", Principal("web", "123456789012", "role", "aws-cn")),
        ("arn:aws:iam::123456789012:root", Principal(account_id="123456789012")),
        ("arn:aws:sts::123456789012:federated-user/bob", Principal(account_id="123456789012")),
        ("nonsense", Principal()),
    ],
)
def test_who_sts_says_we_are(arn: str, principal: Principal) -> None:
    assert principal_of(arn) == principal


def test_a_role_by_its_name_is_of_the_same_account() -> None:
    assert role_arn_of("uploads", ALICE) == UPLOADS
    assert role_arn_of(UPLOADS, Principal()) == UPLOADS
    assert role_arn_of("", ALICE) == ""
    with pytest.raises(ConfigurationError, match="neither the name nor the ARN"):
        role_arn_of("not a name", ALICE)


def test_roles_have_a_path_and_sessions_that_are_long_enough() -> None:
    reader, uploads = grants_of(RICH).roles
    assert (reader.name, reader.path, reader.account_id) == ("reader", "/workers/", "123456789012")
    assert (uploads.name, uploads.path, uploads.session_limit_s) == ("uploads", "/", 7200)
    (short,) = grants_of(replace(RICH, role_arn="", session_duration_s=900)).roles
    assert short.session_limit_s == 3600
    with pytest.raises(ConfigurationError, match="not the ARN of a role"):
        grants_of(replace(RICH, role_arn="arn:aws:iam::123456789012:user/alice"))


def test_policies_of_one_bucket_have_different_names() -> None:
    names = [grants_of(RICH, number=number).policy_name for number in (1, 2)]
    assert names == ["asyncstore-data", "asyncstore-data+2"]
    long = grants_of(BucketAccess(bucket="b" * 200), number=2).policy_name
    assert (len(long), long[-2:]) == (128, "+2")


def test_policies_of_several_buckets_have_different_names() -> None:
    buckets = ["data", "data-2", "my.data", "my-data", "b" * 200, "b" * 201]
    names = {
        grants_of(BucketAccess(bucket=bucket), number=number).policy_name for bucket in buckets for number in (1, 2)
    }
    assert len(names) == 2 * len(buckets)
    assert all(re.fullmatch(r"[\w+=,.@-]{1,128}", name) for name in names)


# What policies say together.

READ = {"Sid": "A", "Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["r1"]}
LIST = {"Sid": "B", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": "b", "Condition": {"x": {"y": ["1"]}}}


def said(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


@pytest.mark.parametrize(
    ("there", "ours", "more"),
    [
        ([READ], [{**READ, "Sid": "Other", "Action": "s3:GetObject", "Resource": "r1"}], []),
        ([READ], [{**READ, "Resource": ["r1", "r2"]}], [{**READ, "Resource": ["r2"]}]),
        ([READ], [{**READ, "Effect": "Deny"}], [{**READ, "Effect": "Deny"}]),
        ([LIST], [{**LIST, "Condition": {"x": {"y": ["2"]}}}], [{**LIST, "Action": ["s3:ListBucket"]}]),
        ([], [{"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}], [{"Effect": "Allow", "NotAction": "s3:*"}]),
    ],
)
def test_what_a_policy_says_besides(there: list[Any], ours: list[Any], more: list[Any]) -> None:
    found = besides(said(*ours), said(*there))
    assert [(item.get("Action"), item["Effect"]) for item in found] == [
        (item.get("Action"), item["Effect"]) for item in more
    ]
    both = united(said(*there), said(*ours))
    assert besides(said(*ours), both) == besides(said(*there), both) == []
    assert besides(both, said(*there, *ours)) == []
    names = [statement["Sid"] for statement in both["Statement"] if "Sid" in statement]
    assert len(set(names)) == len(names)


def test_statements_that_differ_in_one_thing_become_one() -> None:
    both = united(said(READ), said({**READ, "Resource": ["r0"]}))
    assert both == said({**READ, "Resource": ["r0", "r1"]})
    wider = united(both, said({**READ, "Resource": ["r0", "r1"], "Action": ["s3:PutObject"]}))
    assert wider == said({**READ, "Resource": ["r0", "r1"], "Action": ["s3:GetObject", "s3:PutObject"]})
    other = {**READ, "Resource": ["r2"], "Action": ["s3:DeleteObject"]}
    assert united(both, said(other)) == said(*both["Statement"], {**other, "Sid": "A2"})


# CORS.


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://*.example.com", "https://*.example.com"),
        ("*", "*"),
    ],
)
def test_an_origin_is_said_as_browsers_say_it(said: str, meant: str) -> None:
    assert check_origin(said) == meant


@pytest.mark.parametrize(
    "said",
    [
        *("app.example.com", "https://", "ftp://a.example", "https://a.example/path", "https://a.example?x", ""),
        *("https://user@a.example", "https://*.*.example", "https://a.example:port", "https://ä.example"),
    ],
)
def test_what_no_browser_says_is_refused(said: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a scheme and a host"):
        check_origin(said)


def test_xml_and_json_say_the_same() -> None:
    rules = [*cors_rules(["https://a.example", "https://b.example"]), CorsRule(("*",), ("GET",), id="<&>")]
    tree = ET.fromstring(cors_xml(rules))
    names = {name: name.removesuffix("s") for name in ("AllowedOrigins", "AllowedMethods", "AllowedHeaders")}
    names["ExposeHeaders"] = "ExposeHeader"
    for element, rule in zip(tree.findall("{*}CORSRule"), cors_document(rules)["CORSRules"], strict=True):
        for plural, name in names.items():
            assert [found.text for found in element.findall(f"{{*}}{name}")] == rule.get(plural, [])
        assert element.findtext("{*}ID") == rule["ID"]
        assert element.findtext("{*}MaxAgeSeconds") == str(rule["MaxAgeSeconds"])
    assert [CorsRule.parse(rule) for rule in cors_document(rules)["CORSRules"]] == rules


def test_without_origins_there_are_no_rules() -> None:
    assert cors_rules([]) == cors_rules([], full_access=True) == ()


# In other tools' languages.

GRANTS = [
    grants_of(RICH, ["https://a.example"]),
    grants_of(replace(RICH, bucket="it's", role_arn="", prefixes=("",)), ["https://a.example"], full_access=True),
]


def documents_in(grants: list[BucketGrants]) -> list[Any]:
    """Return the policies in the order in which they are written."""
    found: list[Any] = []
    seen: set[str] = set()
    for grant in grants:
        for role in grant.roles:
            found += [role.policy] if role.arn in seen else [role.trust, role.policy]
            seen.add(role.arn)
        found.append(grant.policy)
    return found


def terraform(*arguments: str, folder: Path, said: str = "") -> str:
    executable = shutil.which("terraform")
    if executable is None:
        pytest.skip("there is no terraform on this machine")
    environment = {"TF_CLI_CONFIG_FILE": "/dev/null", "CHECKPOINT_DISABLE": "1", "HOME": str(folder)}
    done = subprocess.run(
        [executable, *arguments], cwd=folder, input=said, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_terraform_reads_the_same_documents(tmp_path: Path) -> None:
    text = as_terraform(GRANTS)
    (tmp_path / "main.tf").write_text(text)
    assert terraform("fmt", "-check", "-diff", "main.tf", folder=tmp_path) == ""
    expressions = re.findall(r"jsonencode\(\{.*?\n  \}\)", text, re.DOTALL)
    names = [f"document_{number}" for number in range(len(expressions))]
    locals_ = "\n".join(f"{name} = {said}" for name, said in zip(names, expressions, strict=True))
    folder = tmp_path / "read"
    folder.mkdir()
    (folder / "main.tf").write_text(f"locals {{\n{locals_}\n}}\n")
    printed = terraform(
        "console", folder=folder, said=f"jsonencode([{', '.join(f'local.{name}' for name in names)}])\n"
    )
    assert [json.loads(said) for said in json.loads(json.loads(printed))] == documents_in(GRANTS)


def test_terraform_names_each_thing_once() -> None:
    resources = re.findall(r'^resource "(\w+)" "(\w+)" {$', as_terraform(GRANTS), re.MULTILINE)
    assert len(set(resources)) == len(resources)
    kinds = [kind for kind, _ in resources]
    assert kinds.count("aws_iam_role") == 2
    assert kinds.count("aws_iam_role_policy") == 3
    assert kinds.count("aws_iam_user_policy") == 2
    assert kinds.count("aws_s3_bucket_cors_configuration") == 2


def test_things_whose_names_differ_in_signs_alone_have_labels_of_their_own() -> None:
    roles = [f"arn:aws:iam::123456789012:role/{name}" for name in ("up.load", "up-load", "team/up-load")]
    accesses = [
        BucketAccess(bucket=bucket, multipart_role_arn=role)
        for bucket, role in zip(("my.data", "my-data", "my_data"), roles, strict=True)
    ]
    text = as_terraform([grants_of(access, ["https://a.example"]) for access in accesses])
    resources = re.findall(r'^resource "(\w+)" "(\w+)" {$', text, re.MULTILINE)
    assert len(set(resources)) == len(resources) == 12
    named = re.findall(r"role += aws_iam_role\.(\w+)\.name", text)
    assert named == [label for kind, label in resources if kind == "aws_iam_role"]


def test_a_role_of_identity_center_is_given_no_policy() -> None:
    sso = Principal("aws-reserved/sso.amazonaws.com/AWSReservedSSO_Dev_0123", "123456789012", "role")
    grants = [grants_of(BucketAccess(bucket="data", principal=sso))]
    for text in (as_terraform(grants), as_aws_cli(grants)):
        lines = text.strip().splitlines()
        assert all(line.startswith("# ") for line in lines)
        assert "permission set" in lines[0]
        assert json.loads(lines[1].removeprefix("# ")) == grants[0].policy
    web = Principal("web", "123456789012", "role")
    assert "aws_iam_role_policy" in as_terraform([grants_of(BucketAccess(bucket="data", principal=web))])


def test_a_shell_hands_the_aws_cli_the_same_documents(tmp_path: Path) -> None:
    script = 'aws() { for word in "$@"; do printf "%s\\0" "$word"; done; printf "\\n"; }\n'
    done = subprocess.run(
        ["sh", "-eu", "-c", script + as_aws_cli(GRANTS)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    commands = [line.split("\0")[:-1] for line in done.stdout.splitlines()]
    options = [dict(zip(words[2::2], words[3::2], strict=True)) for words in commands]
    names = ("--assume-role-policy-document", "--policy-document")
    found = [json.loads(option[name]) for option in options for name in names if name in option]
    assert found == documents_in(GRANTS)
    cors = [json.loads(option["--cors-configuration"]) for option in options if "--cors-configuration" in option]
    assert cors == [cors_document(grant.cors) for grant in GRANTS]
    assert {option.get("--bucket") for option in options} == {None, "data", "it's"}


def test_the_package_gives_what_it_says() -> None:
    for name in asyncstore.bucket.__all__:
        assert getattr(asyncstore.bucket, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asyncstore.bucket.no_such_name
