"""Development tasks; ``nox -s tests`` needs nothing but Python: the servers come with the dependencies."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
BENCHMARKS = {
    "smoke": "benchmarks/bench_smoke.py",
    "objects": "benchmarks/bench_runlog_objects.py",
    "database": "benchmarks/bench_runlog_database.py",
    "catalog": "benchmarks/bench_catalog.py",
}
SERVERS_IN_PARALLEL = ["-n", "auto", "--maxprocesses", "8"]


def install(session: nox.Session, package: str, group: str) -> None:
    """Install the package, built as for a release, and a group of dependencies."""
    session.install(package, *nox.project.dependency_groups(PYPROJECT, group))


def run_tests(session: nox.Session) -> None:
    """Run the tests on the installed package."""
    install(session, ".[cli]", "tests")
    session.run("pytest", *SERVERS_IN_PARALLEL, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the Python that runs nox."""
    run_tests(session)


@nox.session(python=PYTHONS)
def tests_all(session: nox.Session) -> None:
    """Run the tests on every supported Python that this machine has."""
    run_tests(session)


@nox.session
def sweeps(session: nox.Session) -> None:
    """Run the long form of the tests that search."""
    install(session, ".[cli]", "tests")
    session.run("pytest", "-m", "slow", "--timeout=3600", *session.posargs, env={"HYPOTHESIS_PROFILE": "sweep"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly, in the package and around it."""
    install(session, ".[all]", "typing")
    session.run("mypy")


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure what the tests reach; fails under the level set in pyproject.toml."""
    install(session, ".[cli]", "tests")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *SERVERS_IN_PARALLEL, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare speeds with peers: ``-- smoke …``, the default, or ``-- objects …``, with that benchmark's options."""
    install(session, ".[all]", "bench")
    options = list(session.posargs)
    chosen = options.pop(0) if options and options[0] in BENCHMARKS else "smoke"
    session.run("python", BENCHMARKS[chosen], *options)
    if chosen == "smoke":
        session.run("python", BENCHMARKS["catalog"], "--quick")
