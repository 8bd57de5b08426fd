"""The ``asyncstore`` command; needs the extra ``cli``."""

from __future__ import annotations

import importlib
import sys

__all__ = ["main"]

_NEEDED = {"click", "rich", "typer"}


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        app = importlib.import_module("asyncstore.cli._app")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        sys.stderr.write(f"error: the command line needs {missing}: pip install 'asyncstore[cli]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        # What is imported takes half a second.
        sys.exit(130)
    sys.exit(app.run(sys.argv[1:]))
