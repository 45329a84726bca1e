"""Histories over a network that delays answers, loses them and cuts connections, checked for linearizability.

    python -m tests.campaigns.faults --server redis --seed 2026 --count 1000

Clients of one event loop share a port; `tests.servers.proxy` stands between it and a real server. Before some
calls the fault changes, as the seed says; a caller that has waited for `PATIENCE` gives up, as a request does
after `backend_timeout`. What a call that failed may have done is left open, unless its error says that it did
nothing: so an error that claims that wrongly is found, and so is a commit that is sent again blindly
(`--control`: exit status 0 if it is found). A history that no order explains is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from session_middleware.backends.base import Port
from session_middleware.backends.urls import backend_from
from session_middleware.errors import BackendError
from session_middleware.record import Committed, Delta, Refused, SessionId
from session_middleware.testing.histories import (
    Answer,
    Call,
    Operation,
    Outcome,
    Recorder,
    Shape,
    _last_look,
    _Notes,
    _Program,
    _programs,
    _run,
    describe,
    is_linearizable,
)
from tests.servers.postgres import postgres_server
from tests.servers.proxy import Proxy, proxy
from tests.servers.redis import redis_server

__all__ = ["Figures", "SendsAgain", "behind", "histories", "main"]

PATIENCE = 0.03  # seconds
SHAPE = Shape(clients=4, operations=8)
FAULTS = ("delay", "cut", "none")  # cut before its first byte an answer is lost


class SendsAgain:
    """The control: a commit whose outcome is unknown is tried once more."""

    def __init__(self, real: Port) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        try:
            return await self._real.commit(id, delta, now)
        except BackendError:
            return await self._real.commit(id, delta, now)


@dataclass
class Figures:
    """What a campaign came to."""

    histories: int = 0
    operations: int = 0
    unknown: int = 0
    faults: int = 0
    bad: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.histories} histories, {self.operations} operations, {self.unknown} of unknown outcome, "
            f"{self.faults} faults, {len(self.bad)} not linearizable"
        )


def spoil(between: Proxy, chance: Random) -> bool:
    """Another fault, or none; whether there is one."""
    between.heal()
    match chance.choice(FAULTS):
        case "delay":
            between.delay = chance.choice((0.001, 0.005))
        case "cut":
            between.cuts_after = chance.choice((0, 1, 20))
        case _:
            return False
    return True


class Faulty:
    """One history."""

    def __init__(self, port: Port, between: Proxy, seed: int) -> None:
        self.port, self.between, self.seed = port, between, seed
        self.faults = 0
        self._notes = _Notes()
        self._recorder = Recorder(count().__next__, self._notes.tell)

    async def record(self) -> list[Operation]:
        await asyncio.gather(*map(self._client, _programs(self.seed, SHAPE)))
        self.between.heal()
        await self._look()
        return self._notes.history()

    async def _client(self, program: _Program) -> None:
        async def call(asked: Call) -> Answer:
            if program.chance.random() < 0.3:
                self.faults += spoil(self.between, program.chance)
            return await self._patiently(program.client, asked)

        await _run(program, SHAPE, call, lambda: asyncio.sleep(0))

    async def _patiently(self, client: int, asked: Call) -> Answer:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._recorder.call(client, self.port, asked)
        except TimeoutError:
            return Outcome.UNKNOWN

    async def _look(self) -> None:
        """Until connections that broke are gone: a load changes nothing, however often it is tried."""
        for _ in range(SHAPE.clients * 4):
            await _last_look(self.port, self._recorder, self.seed, SHAPE)


@asynccontextmanager
async def behind(url: str, port: int, *, control: bool = False) -> AsyncIterator[tuple[Port, Proxy]]:
    """A port to the store of this address, and what stands between it and the server on *port*."""
    with proxy(port) as between:
        real = backend_from(url.replace(f":{port}", f":{between.port}", 1)).port("async")
        try:
            yield (SendsAgain(real) if control else real), between
        finally:
            between.heal()
            await real.close()


async def histories(port: Port, between: Proxy, seeds: range, *, until_bad: bool = False) -> Figures:
    """Recorded and checked, one by one."""
    figures = Figures()
    await port.open()
    for seed in seeds:
        faulty = Faulty(port, between, seed)
        history = await faulty.record()
        figures.histories += 1
        figures.operations += len(history)
        figures.unknown += sum(operation.answer is Outcome.UNKNOWN for operation in history)
        figures.faults += faulty.faults
        if not is_linearizable(history):
            figures.bad.append(f"seed {seed}\n{describe(history)}")
            if until_bad:
                break
    return figures


@contextmanager
def server_of(name: str) -> Iterator[tuple[str, int]]:
    """A server of its own: the address of a store, and its port."""
    with redis_server() if name == "redis" else postgres_server() as server:
        yield server.new_store(), server.port


def main() -> int:
    """Exit status 0 if every history was linearizable, or if the control's were not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", choices=("redis", "postgres"), default="redis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--control", action="store_true")
    given = parser.parse_args()
    began = time.perf_counter()

    async def campaign(url: str, port: int) -> Figures:
        async with behind(url, port, control=given.control) as (faulty, between):
            seeds = range(given.seed, given.seed + given.count)
            return await histories(faulty, between, seeds, until_bad=given.control)

    with server_of(given.server) as (url, port):
        figures = asyncio.run(campaign(url, port))
    for bad in figures.bad:
        sys.stdout.write(f"{bad}\n\n")
    took = time.perf_counter() - began
    sys.stdout.write(f"{given.server}: {figures}, from seed {given.seed}, {took:.0f} s\n")
    return int(bool(figures.bad) is not given.control)


if __name__ == "__main__":
    sys.exit(main())
