"""Reading asks for nothing but the right to read: no write is tried, not even to learn what the server can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.models import SUCCESS, StepLog
from asyncstore.runlog.chunked import ChunkedS3RunLogStore
from asyncstore.runlog.document import S3RunLogStore
from tests._processes import worker_process

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

READS: list[list[Any]] = [
    ["get_run_log_by_id", "ended"],
    ["get_run_log_by_id", "live"],
    ["get_run_log_by_id", "live", False],
    ["get_step_log", "train", "live"],
    ["get_branch_log", "train.a", "live"],
    ["get_parameters", "live"],
    ["get_run_config", "live"],
    ["list_run_logs"],
    ["watch", "ended"],
]


@pytest.fixture(params=[ChunkedS3RunLogStore, S3RunLogStore])
async def layout(request: pytest.FixtureRequest, stub_bucket: Bucket) -> Any:
    """Return a layout in which two runs have been recorded."""
    async with request.param(**stub_bucket.options) as store:
        for run_id in ("ended", "live"):
            await store.create_run_log(run_id)
            await store.add_step_log(StepLog(name="train", internal_name="train"), run_id)
            await store.add_branch_log(store.create_branch_log("train.a"), run_id)
            await store.set_parameters(run_id, {"x": 1})
        await store.update_run_log_status("ended", SUCCESS)
    return request.param


async def test_reading_needs_no_right_to_write(
    layout: Any, stub_bucket: Bucket, s3_stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_stub.configure(read_only=["reader"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    s3_stub.reset()
    # A process of its own knows nothing yet of what the server can do.
    async with worker_process(layout, stub_bucket.options) as reader:
        answers = [await reader.call(method, *arguments) for method, *arguments in READS]
        assert {request.split(" ")[0] for request in s3_stub.log} <= {"GET", "HEAD"}
        assert s3_stub.requests.keys() <= {"GetObject", "HeadObject", "ListObjectsV2"}
        ended, live, header, step, branch, parameters, config, runs, watched = (item["result"] for item in answers)
        assert (ended["status"], list(ended["steps"]), ended["parameters"]) == (SUCCESS, ["train"], {"x": 1})
        assert (live["status"], list(live["steps"]), header["steps"]) == ("CREATED", ["train"], {})
        assert (step["name"], branch["internal_name"], parameters, config) == ("train", "train.a", {"x": 1}, {})
        assert (len(runs), len(watched)) == (2, 4)
        refused = await reader.call("set_parameters", "live", {"x": 2})
        assert refused["error"] == "AccessDeniedError"


async def test_who_may_not_even_read_is_told_so(
    layout: Any, stub_bucket: Bucket, s3_stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_stub.configure(denied=["nobody"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    s3_stub.reset()
    async with worker_process(layout, stub_bucket.options) as reader:
        answers = [await reader.call(method, *arguments) for method, *arguments in READS]
        assert [answer.get("error") for answer in answers] == ["AccessDeniedError"] * len(READS)
        assert {request.split(" ")[0] for request in s3_stub.log} <= {"GET", "HEAD"}
