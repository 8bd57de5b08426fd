"""The contenders at one server: started when they are needed, warmed up, and started anew after they have failed."""

from __future__ import annotations

import importlib.util
import time
import uuid
from typing import TYPE_CHECKING, Any

from harness.catalog_ours import FOLDER, PREFIX
from harness.catalog_tools import S5CMD, ToolError, executable
from harness.catalog_trees import FEW, MIB, make_equal, make_small
from harness.catalog_work import Place, arguments_of
from harness.rounds import progress
from harness.servers import BUCKET, Target
from harness.worker import Worker, WorkerError

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from harness.catalog_trees import Scratch, Tree

OURS, OURS_ASYNCIO = "asyncstore", "asyncstore-asyncio"
S5CMD_TOOL, RCLONE_TOOL, OBSTORE, AIOBOTO3 = "s5cmd", "rclone", "obstore", "aioboto3"
BOTO3, BOTO3_CRT, S3FS = "boto3", "boto3-crt", "s3fs"
PEERS = (S5CMD_TOOL, OBSTORE, AIOBOTO3, RCLONE_TOOL, BOTO3, BOTO3_CRT, S3FS)

LABELS = {
    OURS: "asyncstore",
    OURS_ASYNCIO: "asyncstore on asyncio's own loop",
    S5CMD_TOOL: "s5cmd",
    RCLONE_TOOL: "rclone copy",
    OBSTORE: "bare obstore loop",
    AIOBOTO3: "aioboto3",
    BOTO3: "boto3, s3transfer threads",
    BOTO3_CRT: "boto3[crt]",
    S3FS: "s3fs",
}

_MODULES = {
    OURS: "catalog_ours",
    OURS_ASYNCIO: "catalog_ours",
    S5CMD_TOOL: "catalog_tools",
    RCLONE_TOOL: "catalog_tools",
    BOTO3: "catalog_threads",
    BOTO3_CRT: "catalog_threads",
}
_NEEDED = {BOTO3_CRT: "awscrt", S3FS: "s3fs"}

ANSWER_DEADLINE_S = 450.0
_WARM_FILES, _WARM_BYTES = 200, 33 * MIB


def is_ours(name: str) -> bool:
    """Tell whether a contender is asyncstore."""
    return name in (OURS, OURS_ASYNCIO)


def kind_of(tree: Tree) -> str:
    """Tell whether a tree is of ``small`` files, or also of ``large`` ones."""
    return "small" if tree.total_bytes / len(tree.files) < MIB / 64 else "large"


def why_missing(name: str) -> str:
    """Tell why a contender cannot take part; nothing if it can."""
    module = _NEEDED.get(name)
    if module and importlib.util.find_spec(module) is None:
        return f"{module} is not installed"
    if name in (S5CMD_TOOL, RCLONE_TOOL):
        try:
            executable(name)
        except ToolError as error:
            return str(error)
    return ""


class Crew:
    """
    The contenders, and the one who checks on them.

    Args:
        target: the server.
        scratch: for what is downloaded and remembered.
        stack: ends the workers.
        uvloop: what event loop those have that need one.
    """

    def __init__(self, target: Target, scratch: Scratch, stack: contextlib.ExitStack, *, uvloop: bool) -> None:
        self.target = target
        self.scratch = scratch
        self._stack = stack
        self._uvloop = uvloop
        self._workers: dict[str, Worker] = {}
        self._written = 0.0
        self._told: set[str] = set()
        self._warm_trees: dict[str, Tree] = {}
        self._warm: set[tuple[str, str]] = set()
        self._settings: dict[tuple[str, str], str] = {}

    def tell(self, text: str) -> None:
        """Tell whoever waits what has gone wrong, once."""
        if text not in self._told:
            progress(f"{self.target.slug}: {text}")
        self._told.add(text)

    def new_key(self, name: str) -> str:
        """Return where nobody has put anything; only asyncstore understands its own keys."""
        return f"{PREFIX if is_ours(name) else name}/{uuid.uuid4().hex[:12]}/{FOLDER}"

    def new_cache(self) -> str:
        """Return the path of a folder that does not exist, for what asyncstore remembers of files."""
        return str(self.scratch.new_folder())

    def up(self, name: str, folder: Path, key: str, **options: str) -> Any:
        """Have a contender put a folder."""
        result = self._work(name, "up", folder, key, options)
        self._written = time.monotonic()
        return result

    def down(self, name: str, folder: Path, key: str, **options: str) -> Any:
        """Have a contender get a folder."""
        self.settle()
        return self._work(name, "down", folder, key, options)

    def check(self, key: str, tree: Tree) -> None:
        """
        Have somebody else look at what was put.

        Raises:
            WorkerError: it is not the tree.
        """
        self.settle()
        if wrong := self._worker("checker").ask("check", key=key, manifest=str(tree.manifest)):
            raise WorkerError(f"what was put below {key} is wrong: {wrong}")

    def delete(self, key: str, tree: Tree) -> None:
        """Delete a run's copy of a tree, unless it is one of many files on a disk (see :class:`Scratch`)."""
        if len(tree.files) >= FEW and self.target.stub is None:
            return
        self.settle()
        self._worker("checker").ask("delete", key=key.rpartition("/")[0])

    def settle(self) -> None:
        """Wait until the server has forgotten what it remembers wrongly of files that it saw being written."""
        time.sleep(max(0.0, self._written + self.target.settle_s - time.monotonic()))

    def warm_up(self, name: str, wanted: Tree) -> None:
        """Have a contender move something small, or something large, unless it has done so before."""
        kind = kind_of(wanted)
        if (name, kind) in self._warm or name in (S5CMD_TOOL, RCLONE_TOOL):
            return
        self._warm.add((name, kind))
        if kind not in self._warm_trees:
            folder = self.scratch.new_folder()
            made = make_small(folder, _WARM_FILES) if kind == "small" else make_equal(folder, 1, _WARM_BYTES)
            self._warm_trees[kind] = made
        tree, key = self._warm_trees[kind], self.new_key(name)
        self.up(name, tree.folder, key, cache=self.new_cache())
        with self.scratch.copy_of(tree) as copy:
            self.down(name, copy, key, cache=self.new_cache())
        self.delete(key, tree)

    def start_ours(self, *, uvloop: bool) -> Worker:
        """Return a worker of asyncstore, to be entered, that has done nothing yet."""
        target = self.target
        place = Place(OURS, BUCKET, target.endpoint_url, target.region, uvloop)
        return Worker("catalog_ours", arguments_of(place), self._environment(), deadline_s=ANSWER_DEADLINE_S)

    def setting(self, direction: str, tree: Tree) -> str:
        """Return s5cmd's best setting, which is found out once for small files and once for others."""
        kind = kind_of(tree)
        if (kind, direction) not in self._settings:
            progress(f"{self.target.slug}: choosing s5cmd's setting for {kind} files")
            self._choose(kind, tree)
        return self._settings[kind, direction]

    def _choose(self, kind: str, tree: Tree) -> None:
        for direction in ("up", "down"):
            self._settings[kind, direction] = next(iter(S5CMD))
        taken: dict[str, dict[str, float]] = {"up": {}, "down": {}}
        for setting in S5CMD:
            key = self.new_key(S5CMD_TOOL)
            taken["up"][setting] = self.up(S5CMD_TOOL, tree.folder, key, setting=setting)["wall_s"]
            with self.scratch.copy_of(tree) as folder:
                taken["down"][setting] = self.down(S5CMD_TOOL, folder, key, setting=setting)["wall_s"]
            self.delete(key, tree)
        for direction, seconds in taken.items():
            self._settings[kind, direction] = min(seconds, key=lambda name: seconds[name])

    def _work(self, name: str, operation: str, folder: Path, key: str, options: dict[str, str]) -> Any:
        try:
            return self._worker(name).ask(operation, folder=str(folder), key=key, options=options)
        except WorkerError:
            # It may have ended, or still be at it.
            self._workers.pop(name).__exit__()
            raise

    def _worker(self, name: str) -> Worker:
        if name not in self._workers:
            uvloop = self._uvloop and name != OURS_ASYNCIO
            place = Place(name, BUCKET, self.target.endpoint_url, self.target.region, uvloop)
            module = "catalog_checker" if name == "checker" else _MODULES.get(name, "catalog_peers")
            worker = Worker(module, arguments_of(place), self._environment(), deadline_s=ANSWER_DEADLINE_S)
            self._workers[name] = worker.__enter__()
            self._stack.callback(self._end, name, worker)
        return self._workers[name]

    def _end(self, name: str, worker: Worker) -> None:
        if self._workers.get(name) is worker:
            self._workers.pop(name).__exit__()

    def _environment(self) -> dict[str, str]:
        # What the machine says of AWS is nobody's business here.
        nowhere = str(self.scratch.root / "no-such-file")
        return {
            **self.target.environment,
            "AWS_CONFIG_FILE": nowhere,
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
