"""What waits for connections: for one, or for many in the same thread."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, TypeVar

from asyncstore.objects._http._connection import TURN

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.objects._http._connection import Connection, Wait

__all__ = ["run", "run_many"]

GROUP = 8
"""How many that are ready go on before those among them that let others go first: few, or all would be in step, and
nothing be under way while their answers are taken care of."""

R = TypeVar("R")

SLICE_S = 0.1
"""How long nobody is asked whether to go on."""


def run(wait: Wait[R], check: Callable[[], None]) -> R:
    """
    Go on with something until it ends, and return what it returns.

    ``check`` is called every 0.1 s, whatever happens; what it raises ends the wait and closes its connection.
    """
    check_at_s = time.monotonic() + SLICE_S
    try:
        connection = next(wait)
        while True:
            connection = next(wait) if _is_ready(connection, check) else wait.throw(TimeoutError("timed out"))
            if (now_s := time.monotonic()) > check_at_s:
                check_at_s = now_s + SLICE_S
                check()
    except StopIteration as ended:
        result: R = ended.value
        return result
    finally:
        wait.close()


def run_many(begin: Callable[[int], Wait[None] | None], check: Callable[[], None]) -> None:
    """
    Go on with several at once until there are no more.

    Args:
        begin: given how many are under way, begins one more, or says that there is none for now. It is asked again
            whenever something has happened, and it is the end if none is under way then.
        check: called every 0.1 s at least; what it raises ends everything and closes all connections.
    """
    crowd = _Crowd()
    try:
        while True:
            while (wait := begin(len(crowd))) is not None:
                crowd.add(wait)
            if not len(crowd):
                return
            check()
            crowd.go_on()
    finally:
        crowd.close()


def _is_ready(connection: Connection, check: Callable[[], None]) -> bool:
    if connection.waits_for == TURN:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), connection.waits_for)
    deadline_s = time.monotonic() + connection.patience_s
    while not poller.poll(SLICE_S * 1000):
        check()
        if time.monotonic() > deadline_s:
            return False
    return True


class _Member:
    """One of many, what it waits for, and until when."""

    __slots__ = ("deadline_s", "descriptor", "wait")

    def __init__(self, wait: Wait[None]) -> None:
        self.wait = wait
        self.descriptor = -1
        self.deadline_s = 0.0


class _Crowd:
    """Those that wait, in one call of ``poll``: unlike epoll, it does not know descriptors that were closed."""

    def __init__(self) -> None:
        self._poller = select.poll()
        self._members: dict[int, _Member] = {}
        self._turns: list[_Member] = []
        self._look_at_s = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def add(self, wait: Wait[None]) -> None:
        self._continue(_Member(wait))

    def go_on(self) -> None:
        self._take_turns()
        ready = self._poller.poll(SLICE_S * 1000)
        for start in range(0, len(ready), GROUP):
            for descriptor, _ in ready[start : start + GROUP]:
                self._continue(self._members[descriptor])
            self._take_turns()
        now_s = time.monotonic()
        if now_s > self._look_at_s:
            self._look_at_s = now_s + 10 * SLICE_S
            for member in [member for member in self._members.values() if now_s > member.deadline_s]:
                self._continue(member, TimeoutError("timed out"))

    def _take_turns(self) -> None:
        turns, self._turns = self._turns, []
        for member in turns:
            self._continue(member)

    def close(self) -> None:
        for member in self._members.values():
            member.wait.close()

    def _continue(self, member: _Member, error: Exception | None = None) -> None:
        try:
            connection = next(member.wait) if error is None else member.wait.throw(error)
        except BaseException as ended:
            self._forget(member)
            if not isinstance(ended, StopIteration):
                raise
            return
        descriptor = connection.fileno()
        if descriptor != member.descriptor:
            self._forget(member)
            member.descriptor = descriptor
            self._members[descriptor] = member
        if connection.waits_for == TURN:
            self._turns.append(member)
        self._poller.register(descriptor, connection.waits_for)
        member.deadline_s = time.monotonic() + connection.patience_s

    def _forget(self, member: _Member) -> None:
        if self._members.pop(member.descriptor, None) is not None:
            self._poller.unregister(member.descriptor)
        member.descriptor = -1
