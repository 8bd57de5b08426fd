"""``python -m asyncstore.cli`` is ``asyncstore``."""

from __future__ import annotations

from asyncstore.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
