"""
An async pipeline over real text files, recorded step by step.

It counts what is in the text files of a folder: loads the list of files, measures groups of files in parallel branches,
looks at each kind of file in a map, combines the groups, and writes a report. Every step's status, duration, parameters
and metrics land in the run log, every result file in the catalog.

    python examples/text_pipeline.py [FOLDER] [CONFIG.yaml]

Without a configuration the run log is an SQLite database and the catalog a folder, both under ``.asyncstore/``; with
one, the same code logs to S3 or Postgres. ``asyncstore demo`` runs this file, and shows the run as a tree.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, replace
from keyword import kwlist
from pathlib import Path
from typing import TYPE_CHECKING

import asyncstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA_FOLDER = "data"
"""The compute data folder: where steps leave their files, and where the catalog takes them from."""

RESULTS = "text_pipeline"
"""The pipeline's own corner of the compute data folder."""

KINDS = (".py", ".txt", ".md", ".rst", ".toml", ".json", ".html", ".cfg", ".ini", ".yaml", ".csv", ".c", ".h")
LEFT_OUT = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
MOST_FILES = 1500
MOST_BYTES = 24_000_000
GROUPS = 6
"""So many of the largest sub-folders are groups of their own; whatever else there is, is one more group."""

MOST_CHARACTERS = 60
"""Most of a group's name that its file is named after."""

WORD = re.compile(r"\w+")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,}")
STAGES = ("load", "measure", "kinds", "combine", "report")


@dataclass(frozen=True)
class TextFile:
    """A file as the pipeline found it."""

    name: str
    kind: str
    size_bytes: int
    group: str = ""


@dataclass
class Counts:
    """What was counted in some files."""

    files: int = 0
    lines: int = 0
    words: int = 0
    longest_line: int = 0
    longest_line_in: str = ""
    identifiers: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, text: str) -> None:
        """Count one file."""
        lines = text.splitlines()
        longest = max(map(len, lines), default=0)
        if longest > self.longest_line:
            self.longest_line, self.longest_line_in = longest, name
        self.files += 1
        self.lines += len(lines)
        self.words += len(WORD.findall(text))
        self.identifiers.update(IDENTIFIER.findall(text))


@dataclass(frozen=True)
class Result:
    """What a run of the pipeline leaves behind."""

    run_id: str
    report: str
    put: list[asyncstore.DataCatalog]
    data_folder: Path = Path(DATA_FOLDER, RESULTS)


async def run_pipeline(
    services: asyncstore.Services, folder: Path, on_stage: Callable[[str], object] = lambda stage: None
) -> Result:
    """Run the whole pipeline over the text files of ``folder``; ``on_stage`` is told what comes next."""
    await asyncio.to_thread(require_folder, folder)
    async with services.run(tag="demo", parameters={"folder": str(folder)}) as run:
        on_stage("load")
        files = await load(run, folder)
        on_stage("measure")
        await measure_groups(run, folder, files)
        on_stage("kinds")
        await look_at_kinds(run, folder, files)
        on_stage("combine")
        totals = await combine(run)
        on_stage("report")
        report = await write_report(run, folder, totals)
    log = await run.read()
    return Result(run.run_id, report, log.get_data_catalogs_by_stage("put"))


async def load(run: asyncstore.RunRecorder, folder: Path) -> list[TextFile]:
    """Find the files and sort them into groups."""
    async with run.step("load") as step:
        files = await asyncio.to_thread(find_files, folder)
        await step.set_parameters({"files": len(files), "bytes": sum(file.size_bytes for file in files)})
        await asyncio.to_thread(write_json, "files.json", [asdict(file) for file in files])
        await step.put(f"{RESULTS}/files.json", compute_data_folder=DATA_FOLDER)
    return files


async def measure_groups(run: asyncstore.RunRecorder, folder: Path, files: list[TextFile]) -> None:
    """Count each group in a branch of its own, all of them at the same time."""
    async with asyncio.TaskGroup() as branches:
        for group, members in by(files, "group").items():
            branches.create_task(measure_group(run, folder, group, members))


async def measure_group(run: asyncstore.RunRecorder, folder: Path, group: str, files: list[TextFile]) -> None:
    """Count one group; the counting runs in a thread, so that the other branches go on."""
    async with run.branch("measure", group) as branch:
        async with branch.step("count") as step:
            counts = await asyncio.to_thread(count_files, folder, files)
            await step.log_metrics({"files": counts.files, "lines": counts.lines, "words": counts.words})
        async with branch.step("save") as step:
            name = f"groups/{file_name(group)}.json"
            await asyncio.to_thread(write_json, name, vars(counts) | {"group": group})
            await step.put(f"{RESULTS}/{name}", compute_data_folder=DATA_FOLDER)


async def look_at_kinds(run: asyncstore.RunRecorder, folder: Path, files: list[TextFile]) -> None:
    """Look at each kind of file: a map, whose branches are named after the values."""
    async with asyncio.TaskGroup() as branches:
        for kind, members in by(files, "kind").items():
            branches.create_task(look_at_kind(run, folder, kind, members))


async def look_at_kind(run: asyncstore.RunRecorder, folder: Path, kind: str, files: list[TextFile]) -> None:
    """Say how long the lines of one kind are, and how many of them are blank."""
    async with run.branch("kinds", kind, step_type="map") as branch:
        await branch.set_parameters({"kind": kind})
        async with branch.step("shape") as step:
            shape = await asyncio.to_thread(shape_of, folder, files)
            await step.log_metrics(shape)
            name = f"kinds/{file_name(kind[1:])}.json"
            await asyncio.to_thread(write_json, name, {"kind": kind, **shape})
            await step.put(f"{RESULTS}/{name}", compute_data_folder=DATA_FOLDER)


async def combine(run: asyncstore.RunRecorder) -> Counts:
    """Reduce: read back what the branches saved, and add it up."""
    async with run.step("combine") as step:
        saved = await step.get(f"{RESULTS}/groups/*.json", compute_data_folder=DATA_FOLDER)
        totals = await asyncio.to_thread(add_up, [Path(entry.name) for entry in saved])
        await step.log_metrics({"groups": len(saved), "distinct_identifiers": len(totals.identifiers)})
        await step.set_parameters({"lines": totals.lines, "words": totals.words})
    return totals


async def write_report(run: asyncstore.RunRecorder, folder: Path, totals: Counts) -> str:
    """Write what people want to read."""
    async with run.step("report") as step:
        report = report_text(folder, totals, await step.get_parameters())
        await asyncio.to_thread(write_text, "report.md", report)
        await step.put(f"{RESULTS}/report.md", compute_data_folder=DATA_FOLDER)
    return report


async def fetch_again(services: asyncstore.Services, result: Result) -> int:
    """
    Get every file of a run into an empty folder, as another machine would, and return how many there are.

    Raises:
        asyncstore.IntegrityError: a file is missing, or is not what was put.
    """
    elsewhere = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="asyncstore-demo-"))
    try:
        await services.catalog.get(f"{RESULTS}/**", result.run_id, DATA_FOLDER, local_folder=elsewhere / DATA_FOLDER)
        found = await asyncio.to_thread(hash_files, elsewhere)
    finally:
        await asyncio.to_thread(shutil.rmtree, elsewhere)
    expected = {entry.name: entry.data_hash for entry in result.put}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise asyncstore.IntegrityError(f"what came back from the catalog differs: {', '.join(wrong)}")
    return len(found)


# What the steps do, without asyncio: each of these runs in a thread.


def require_folder(folder: Path) -> None:
    """Say it clearly if there is nothing to work on."""
    if not folder.is_dir():
        raise asyncstore.NotFoundError(f"there is no folder {str(folder)!r}: give one that holds text files")


def find_files(folder: Path) -> list[TextFile]:
    """Return the text files of a folder, the same ones each time, and no more than a demonstration needs."""
    found: list[TextFile] = []
    size_bytes = 0
    for path in text_paths(folder):
        file = TextFile(path.relative_to(folder).as_posix(), path.suffix.lower(), path.stat().st_size)
        size_bytes += file.size_bytes
        if len(found) == MOST_FILES or size_bytes > MOST_BYTES:
            break
        found.append(file)
    if not found:
        raise asyncstore.NotFoundError(f"there are no text files ({', '.join(KINDS)}) in {str(folder)!r}")
    return grouped(found)


def text_paths(folder: Path) -> Iterator[Path]:
    """Yield the text files of a folder in a fixed order, without looking into what is left out."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        for path in (Path(root, name) for name in sorted(names)):
            if path.suffix.lower() in KINDS and path.is_file():
                yield path


def grouped(files: list[TextFile]) -> list[TextFile]:
    """Give each file its group: its top-level folder, if that is one of the largest."""
    sizes: Counter[str] = Counter()
    for file in files:
        if "/" in file.name:
            sizes[file.name.split("/")[0]] += file.size_bytes
    largest = {name for name, _ in sizes.most_common(GROUPS)}
    return [replace(file, group=top if (top := file.name.split("/")[0]) in largest else "others") for file in files]


def by(files: list[TextFile], attribute: str) -> dict[str, list[TextFile]]:
    """Sort files into lists by an attribute."""
    lists: defaultdict[str, list[TextFile]] = defaultdict(list)
    for file in files:
        lists[getattr(file, attribute)].append(file)
    return dict(sorted(lists.items()))


def read_text(folder: Path, file: TextFile) -> str:
    """Return a file's text; what is not UTF-8 is replaced."""
    return (folder / file.name).read_text(encoding="utf-8", errors="replace")


def count_files(folder: Path, files: list[TextFile]) -> Counts:
    """Count lines, words and identifiers."""
    counts = Counts()
    for file in files:
        counts.add(file.name, read_text(folder, file))
    return counts


def shape_of(folder: Path, files: list[TextFile]) -> dict[str, float]:
    """Return how lines are."""
    lengths = [len(line) for file in files for line in read_text(folder, file).splitlines()]
    blank = lengths.count(0)
    return {
        "files": len(files),
        "lines": len(lengths),
        "blank_percent": round(100 * blank / max(len(lengths), 1), 1),
        "mean_length": round(sum(lengths) / max(len(lengths) - blank, 1), 1),
    }


def add_up(paths: list[Path]) -> Counts:
    """Add up saved counts."""
    totals = Counts()
    for path in paths:
        part = json.loads(path.read_text(encoding="utf-8"))
        totals.files += part["files"]
        totals.lines += part["lines"]
        totals.words += part["words"]
        totals.identifiers.update(part["identifiers"])
        if part["longest_line"] > totals.longest_line:
            totals.longest_line, totals.longest_line_in = part["longest_line"], part["longest_line_in"]
    return totals


def report_text(folder: Path, totals: Counts, parameters: dict[str, int]) -> str:
    """Return the report, in Markdown."""
    names = [pair for pair in totals.identifiers.items() if pair[0] not in kwlist]
    common = sorted(names, key=lambda pair: (-pair[1], pair[0]))[:5]
    return "\n".join(
        [
            f"# {folder}",
            "",
            f"- {totals.files:,} files, {parameters['bytes'] / 1e6:,.2f} MB",
            f"- {totals.lines:,} lines, {totals.words:,} words",
            f"- longest line: {totals.longest_line:,} characters, in {totals.longest_line_in}",
            f"- most common: {', '.join(f'{name} ({count:,})' for name, count in common)}",
            "",
        ]
    )


def file_name(group: str) -> str:
    """Return a plain file name for a group; those of different groups differ, even where case does not count."""
    plain = re.sub(r"[^a-z0-9_-]", "_", group.lower())[:MOST_CHARACTERS]
    # No plain name holds a dot, so none is another's name with a hash.
    return plain if plain == group else f"{plain}.{hashlib.sha256(os.fsencode(group)).hexdigest()[:16]}"


def write_json(name: str, value: object) -> None:
    """Write a result file."""
    write_text(name, json.dumps(value, indent=1, sort_keys=True))


def write_text(name: str, text: str) -> None:
    """Write a result file into the pipeline's corner of the compute data folder."""
    path = Path(DATA_FOLDER, RESULTS, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def hash_files(folder: Path) -> dict[str, str]:
    """Return name → SHA-256 of every file in a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def default_folder() -> Path:
    """Return the running Python's own standard library."""
    return Path(sysconfig.get_path("stdlib"))


async def main(folder: Path, config: str | None) -> None:
    """Run the pipeline, get its files back elsewhere, and say what came of it."""
    async with asyncstore.open_services(config) as services:
        result = await run_pipeline(services, folder)
        count = await fetch_again(services, result)
        print(result.report)
        print(f"run {result.run_id}: {count} files put, and the same {count} got back")


if __name__ == "__main__":
    given = [*sys.argv[1:3], None, None]
    asyncio.run(main(Path(given[0]) if given[0] else default_folder(), given[1]))
