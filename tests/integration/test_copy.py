"""``asyncstore runs copy``: whole runs from any store to any other, in order, verified, and harmless to repeat."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from asyncstore.cli._app import run
from asyncstore.errors import IntegrityError, UnavailableError
from asyncstore.models import RunLog, StepLog
from asyncstore.runlog.buffered import BufferedRunLogStore
from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind
from asyncstore.runlog.transfer import Job, Parts, State, transfer
from asyncstore.services import open_services
from asyncstore.services.copying import open_run_log_store, store_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from asyncstore.testing.servers import Bucket

Config = dict[str, Any]
KINDS = ["chunked-s3", "s3", "chunked-fs", "file-system", "db"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store_of(stub_bucket: Bucket, working_folder: Path) -> Callable[[str, str], str]:
    """Return the configuration of a store of that type, apart from those of other names."""

    def make(kind: str, name: str) -> str:
        options: Config = {"log_folder": name}
        if kind in {"chunked-s3", "s3"}:
            options = {**stub_bucket.options, "prefix": name}
        if kind == "db":
            options = {"connection_string": f"sqlite:///{working_folder / name}.db"}
        path = working_folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"run_log_store": {"type": kind, "config": options}}))
        if kind == "db":
            assert run(["db", "create-tables", "--config", str(path)]) == 0
        return str(path)

    return make


def record(config: str, *run_ids: str) -> None:
    """Record runs with branches in branches, whose steps come in an order that no sorting by name gives."""

    async def work() -> None:
        async with open_services(config) as services:
            for run_id in run_ids:
                async with services.run(run_id, tag="t", parameters={"z": 1, "a": [None, 2.0, 2**70]}) as recorder:
                    async with recorder.step("z first"):
                        pass
                    for branch_name in ("y", "x.csv"):
                        async with recorder.branch("fan", branch_name) as branch:
                            async with branch.step("train") as step:
                                await step.set_parameters({"é": branch_name})
                            async with branch.branch("each", "1") as inner, inner.step("deep/er"):
                                pass
                    async with recorder.step("a last"):
                        pass

    asyncio.run(work())


def read(config: str, run_id: str) -> RunLog:
    async def work() -> RunLog:
        async with open_run_log_store(config) as store:
            return await store.get_run_log_by_id(run_id)

    return asyncio.run(work())


def listed(config: str) -> list[str]:
    async def work() -> list[str]:
        async with open_run_log_store(config) as store:
            return [summary.run_id async for summary in store.list_run_logs()]

    return asyncio.run(work())


def copy(capsys: pytest.CaptureFixture[str], old: str, new: str, *options: str) -> tuple[int, list[tuple[str, str]]]:
    capsys.readouterr()
    code = run(["runs", "copy", "--from", old, "--to", new, "--json", *options])
    runs = json.loads(capsys.readouterr().out)["runs"]
    return code, [(found["run_id"], found["state"]) for found in runs]


def text(run_log: RunLog) -> str:
    return run_log.model_dump_json()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (source, target)
        for index, source in enumerate(KINDS)
        for target in (KINDS[index], KINDS[index - 1], KINDS[index - 2])
    ],
)
def test_copies_are_equal_in_content_and_order(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    old, new = store_of(source, "old"), store_of(target, "new")
    record(old, "first", "another")
    assert copy(capsys, old, new) == (0, [("first", "written"), ("another", "written")])
    for run_id in ("first", "another"):
        # As text: dictionaries are equal in any order.
        assert text(read(new, run_id)) == text(read(old, run_id))
    assert listed(new) == listed(old) == ["another", "first"]
    assert copy(capsys, old, new) == (0, [("first", "unchanged"), ("another", "unchanged")])


@pytest.mark.parametrize("target", ["chunked-s3", "s3", "file-system"])
def test_copies_keep_the_time_of_a_run_and_its_steps(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str], target: str
) -> None:
    old, new = store_of("chunked-fs", "old"), store_of(target, "new")
    record(old, "r")
    assert copy(capsys, old, new) == (0, [("r", "written")])
    original, copied = read(old, "r"), read(new, "r")
    assert copied.created_at == original.created_at is not None
    times = [step.created_at for step in original.walk_steps()]
    assert [step.created_at for step in copied.walk_steps()] == times
    assert None not in times


def test_runs_are_chosen_by_id_and_pattern(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = store_of("file-system", "old"), store_of("chunked-fs", "new")
    record(old, "a-1", "b", "a-2", "a[1]")
    assert copy(capsys, old, new, "a-*", "a[1]") == (0, [("a-1", "written"), ("a-2", "written"), ("a[1]", "written")])


def test_what_differs_stays_unless_it_is_to_be_replaced(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = store_of("file-system", "old"), store_of("db", "new")
    record(old, "r", "s")
    record(new, "r")
    before = text(read(new, "r"))
    assert copy(capsys, old, new) == (1, [("r", "kept"), ("s", "written")])
    assert text(read(new, "r")) == before
    assert run(["runs", "copy", "--from", old, "--to", new, "r"]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().out
    assert copy(capsys, old, new, "--overwrite") == (0, [("r", "replaced"), ("s", "unchanged")])
    assert text(read(new, "r")) == text(read(old, "r"))


def test_a_dry_run_writes_nothing(store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = store_of("file-system", "old"), store_of("chunked-fs", "new")
    record(old, "r")
    assert copy(capsys, old, new, "--dry-run") == (0, [("r", "written")])
    assert not Path("new").exists()


def test_what_an_interrupted_copy_left_is_completed_in_order(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = store_of("db", "old"), store_of("chunked-fs", "new")
    record(old, "r")
    assert copy(capsys, old, new)[0] == 0
    Path("new/r.json").unlink()
    Path("new/r/RunLog/run_log.json").unlink()
    Path("new/r/StepLog/z%20first.json").unlink()
    assert listed(new) == []
    assert copy(capsys, old, new) == (0, [("r", "written")])
    assert text(read(new, "r")) == text(read(old, "r"))


def test_the_current_configuration_stands_for_the_side_that_is_not_given(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old = store_of("file-system", "old")
    record(old, "r")
    assert run(["runs", "copy", "--from", old]) == 0
    assert "r    ✓ copied" in capsys.readouterr().out
    assert run(["runs", "list"]) == 0
    assert run(["runs", "copy", "--to", old]) == 0
    assert "= unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ([], 2, "say where from, or where to"),
        (["--from", "old.yaml", "--to", "old.yaml"], 2, "source and target are the same"),
        (["--from", "nowhere.yaml"], 2, "there is no configuration file"),
        (["--from", "old.yaml", "r", "nope-*"], 3, "no run 'nope-*' in "),
    ],
)
def test_wrong_usage(
    store_of: Callable[[str, str], str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    error: str,
) -> None:
    record(store_of("file-system", "old"), "r")
    assert run(["runs", "copy", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert error in printed.err.splitlines()[0]


def test_several_runs_are_exported_into_a_folder(
    store_of: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    old = store_of("chunked-fs", "old")
    record(old, "a", "b")
    assert run(["runs", "export", "--config", old, "a", "b"]) == 2
    assert run(["runs", "export", "--config", old, "a", "b", "-o", "out"]) == 0
    assert capsys.readouterr().err.splitlines()[-2:] == ["wrote out/a.json", "wrote out/b.json"]
    new = store_of("db", "new")
    assert run(["runs", "import", "--config", new, "--from", "out"]) == 0
    assert list(read(new, "a").steps) == list(read(old, "a").steps)


# The engine, on a store in memory that does what storage may do.


class Forgetful(BufferedRunLogStore):
    """Loses one fragment of the run ``bad``."""

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        return await super()._insert(run_id, fragments[:-1] if run_id == "bad" else fragments)


class Shuffling(BufferedRunLogStore):
    """Keeps the fragments of the run ``bad`` the wrong way round."""

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        return await super()._insert(run_id, fragments[::-1] if run_id == "bad" else fragments)


class Altering(BufferedRunLogStore):
    """Changes a value of the run ``bad``."""

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        changed = [
            replace(part, body=b"1") if part.kind is Kind.PARAMETER and run_id == "bad" else part for part in fragments
        ]
        return await super()._insert(run_id, changed)


async def some_runs(*run_ids: str) -> BufferedRunLogStore:
    store = BufferedRunLogStore()
    await store.open()
    for run_id in run_ids:
        await store.create_run_log(run_id)
        await store.set_parameters(run_id, {"p": 1.0})
        for name in ("b", "a", "c"):
            await store.add_step_log(StepLog(name=name, internal_name=name), run_id)
        await store.update_run_log_status(run_id, "SUCCESS")
    return store


@pytest.mark.parametrize(
    ("target", "told"), [(Forgetful, "1 missing"), (Shuffling, "another order"), (Altering, "1 different")]
)
async def test_a_copy_that_reads_back_otherwise_is_an_error_for_that_run_alone(
    target: type[BufferedRunLogStore], told: str
) -> None:
    source = await some_runs("one", "bad", "two")
    async with target() as store:
        outcomes = await transfer(await store_jobs(source), store)
    assert [outcome.state for outcome in outcomes] == [State.WRITTEN, State.FAILED, State.WRITTEN]
    error = outcomes[1].error
    assert isinstance(error, IntegrityError)
    assert told in str(error)
    await source.aclose()


async def test_runs_are_written_in_their_order_however_long_each_takes_to_read() -> None:
    source = await some_runs(*(f"run-{number}" for number in range(30)))
    jobs = await store_jobs(source)
    latecomers = asyncio.Event()

    def slowed(job: Job, number: int) -> Job:
        async def read_late() -> Parts:
            if number % 8 == 0:
                await asyncio.wait_for(latecomers.wait(), 10)
            elif number % 8 == 7:
                latecomers.set()
            return await job.read()

        return replace(job, read=read_late)

    async with BufferedRunLogStore() as store:
        await transfer([slowed(job, number) for number, job in enumerate(jobs)], store)
        found = [summary.run_id async for summary in store.list_run_logs()]
    assert found == [f"run-{number}" for number in reversed(range(30))]
    await source.aclose()


async def test_storage_that_is_down_is_not_asked_for_every_run() -> None:
    async def down() -> Parts:
        raise UnavailableError("down")

    async with BufferedRunLogStore() as store:
        outcomes = await transfer([Job(str(number), down) for number in range(50)], store)
    states = [outcome.state for outcome in outcomes]
    assert states[0] is State.FAILED
    assert set(states[8:]) == {State.NOT_TRIED}


class Halting(ChunkedFileSystemRunLogStore):
    """Comes no further than the last two of a run's parts, until it is cancelled."""

    def __init__(self, folder: Path) -> None:
        super().__init__(log_folder=str(folder))
        self.halted = asyncio.Event()

    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        await super()._insert(run_id, fragments[-2:])
        self.halted.set()
        await asyncio.Event().wait()
        return ()


async def test_a_copy_that_was_cancelled_is_made_whole_by_the_next(tmp_path: Path) -> None:
    source = await some_runs("r", "s")
    jobs = await store_jobs(source)
    async with Halting(tmp_path / "new") as store:
        task = asyncio.create_task(transfer(jobs, store))
        await store.halted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [summary async for summary in store.list_run_logs()]
    async with ChunkedFileSystemRunLogStore(log_folder=str(tmp_path / "new")) as whole:
        assert [outcome.state for outcome in await transfer(jobs, whole)] == [State.WRITTEN, State.WRITTEN]
        assert list((await whole.get_run_log_by_id("r")).steps) == ["b", "a", "c"]
    await source.aclose()
