"""
Runs taken from one place to another: read from what other tools wrote, written as a whole, read back and compared.

:mod:`layouts`, :mod:`parsing` and :mod:`reading` know the other tools' names and documents, and are pure; :mod:`places`
and :mod:`source` read; :mod:`landing` writes; :mod:`exporting` turns a run into the document that the other tools read.
"""

from __future__ import annotations

from asyncstore.runlog.transfer.exporting import for_other_tools
from asyncstore.runlog.transfer.landing import Job, Outcome, Parts, State, snapshot, transfer
from asyncstore.runlog.transfer.layouts import LAYOUTS, Layout
from asyncstore.runlog.transfer.places import Place, place_of, place_of_service
from asyncstore.runlog.transfer.source import FoundRun, RunSource, chosen

__all__ = [
    "LAYOUTS",
    "FoundRun",
    "Job",
    "Layout",
    "Outcome",
    "Parts",
    "Place",
    "RunSource",
    "State",
    "chosen",
    "for_other_tools",
    "place_of",
    "place_of_service",
    "snapshot",
    "transfer",
]
