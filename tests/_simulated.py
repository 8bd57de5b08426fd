"""Time that passes at once, and a storage with latencies: what is a matter of timing, tested in every order."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    import pytest

__all__ = ["SimulatedLoop", "SimulatedStore", "run_simulated"]


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Time passes only while everybody sleeps, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def skip(timeout: float | None) -> Any:
            self._now += timeout or 0.0
            return select(0)

        selector.select = skip

    def time(self) -> float:
        return self._now


class SimulatedStore:
    """What tickets ask of a storage, with the latency of one writer; it acts in the midst of each request."""

    def __init__(self, shared: dict[str, bytes], latency_s: float, error: Exception | None = None) -> None:
        self.shared = shared
        self.latency_s = latency_s
        self.error = error
        self.requests = 0

    async def put(self, key: str, data: bytes) -> str:
        async with self._request():
            self.shared[key] = data
        return ""

    async def list(self, prefix: str) -> Any:
        async with self._request():
            found = [type("Meta", (), {"key": key})() for key in self.shared if key.startswith(prefix)]
        yield found

    async def delete(self, keys: Sequence[str]) -> None:
        async with self._request():
            for key in keys:
                self.shared.pop(key, None)

    @asynccontextmanager
    async def _request(self) -> AsyncIterator[None]:
        self.requests += 1
        await asyncio.sleep(self.latency_s * random.uniform(0.1, 0.9))
        if self.error is not None:
            raise self.error
        yield
        await asyncio.sleep(self.latency_s * random.uniform(0.1, 0.9))


def run_simulated(monkeypatch: pytest.MonkeyPatch, work: Coroutine[Any, Any, Any]) -> Any:
    """Run on a loop whose time passes at once, and return what ``work`` returns."""
    loop = SimulatedLoop()
    monkeypatch.setattr(time, "monotonic", loop.time)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
