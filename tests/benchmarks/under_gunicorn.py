"""Flask apps under real gunicorns, loaded from another process: requests per second, as a share of bare.

Reading order: `measure_served` (interleaved rounds), `Shares`, `served` (one gunicorn), `Loader` (the process
that sends).

Sessions in memory are not among them: each of the two workers would have its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

from tests.benchmarks.apps import BARE, CASES, PAYLOAD, Case
from tests.benchmarks.checks import ClaimError, check, check_still_signed_in, signed_in
from tests.benchmarks.flask_apps import KINDS, Site
from tests.benchmarks.load import DIGITS, Order, Outcome
from tests.benchmarks.measure import Spread
from tests.benchmarks.remote import PATIENCE, ROOT, Remote, python_path
from tests.benchmarks.traffic import Browser

__all__ = [
    "CONNECTIONS",
    "THREADS",
    "WORKERS",
    "Loader",
    "Shares",
    "Spell",
    "measure_served",
    "served",
]

WORKERS, THREADS, CONNECTIONS = 2, 4, 8
_EXPECTED: Final[Mapping[Case, str]] = {
    "none": "ignored",
    "untouched": "ignored",
    "read": str(PAYLOAD["user"]),
    "write": DIGITS,
    "new": "begun",
}


@dataclass(frozen=True, slots=True)
class Spell:
    """How long to measure: rounds, and how long one app is loaded with one case (`most`: requests)."""

    rounds: int
    seconds: float
    most: int = 2_000


@dataclass(slots=True)
class Shares:
    """Requests per second by app and case, one per round; the rounds of all apps are in step."""

    taken: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, app: str, case: str, per_second: float) -> None:
        """Note one load."""
        self.taken.setdefault((app, case), []).append(per_second)

    def apps(self) -> list[str]:
        """The apps, without the bare one."""
        return [app for app in dict.fromkeys(app for app, _ in self.taken) if app != BARE]

    def bare(self, case: str) -> Spread:
        """Requests per second of the bare app."""
        return Spread.of(self.taken[BARE, case])

    def share(self, app: str, case: str) -> Spread:
        """What is left of the bare app's requests per second, taken round by round."""
        pairs = zip(self.taken[app, case], self.taken[BARE, case], strict=True)
        return Spread.of([with_session / without for with_session, without in pairs])


def measure_served(site: Site, spell: Spell, names: Iterable[str] | None = None) -> Shares:
    """Each kind under a gunicorn of its own, checked first, then loaded in turns.

    Raises `ClaimError` for one that does not do what it claims, or answers anything else under load.
    """
    shares = Shares()
    with ExitStack() as stack:
        loader = stack.enter_context(Loader.started())
        remotes = [stack.enter_context(served(name, site)) for name in names or _kinds(site)]
        ready = [(remote, asyncio.run(_visitors(remote))) for remote in remotes]
        for number in range(spell.rounds):
            order = ready if number % 2 == 0 else ready[::-1]
            for case in CASES:
                for remote, visitors in order:
                    outcome = loader.load(remote, case, visitors, spell)
                    shares.add(remote.name, case, outcome.per_second)
        for remote, visitors in ready:
            asyncio.run(check_still_signed_in(remote.candidate(), visitors))
    return shares


def _kinds(site: Site) -> list[str]:
    return [
        name for name, kind in KINDS.items() if kind.is_shared and (site.redis_url or not kind.needs_redis)
    ]


async def _visitors(remote: Remote) -> list[Browser]:
    candidate = remote.candidate()
    await check(candidate)
    return [await signed_in(candidate) for _ in range(CONNECTIONS)]


@contextmanager
def served(name: str, site: Site) -> Iterator[Remote]:
    """A gunicorn on a socket that listens already: no port to lose to another, no waiting for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--worker-class=gthread", "--keep-alive=30"]
        command += [f"--workers={WORKERS}", f"--threads={THREADS}", f"--bind=fd://{listener.fileno()}"]
        command += ["--graceful-timeout=5", "--log-level=warning", "tests.benchmarks.flask_served:app"]
        environment = {**os.environ, "BENCH_APP": name, "BENCH_FOLDER": str(site.folder)}
        environment |= {"BENCH_REDIS": site.redis_url or "", "PYTHONPATH": python_path()}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()])
        try:
            yield Remote(name, listener.getsockname()[1], KINDS[name].sets_cookie)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE)


class Loader:
    """The process that sends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Loader]:
        """It, until the end of the block."""
        command = [sys.executable, "-m", "tests.benchmarks.load"]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:  # leaving closes its input, which is how it ends
            yield cls(process)

    def load(self, remote: Remote, case: Case, visitors: Iterable[Browser], spell: Spell) -> Outcome:
        """Load *remote* with one case. Raises `ClaimError` if any answer is not the expected one."""
        browsers = [Browser() for _ in visitors] if case in {"none", "new"} else visitors
        requests = [_request(browser, f"/{case}") for browser in browsers]
        expected = "ignored" if remote.name == BARE else _EXPECTED[case]
        outcome = self._sent(Order(remote.port, requests, expected, spell.seconds, spell.most))
        if outcome.wrong:
            raise ClaimError(f"{remote.name}: under load {case} answered {outcome.wrong[0]}")
        return outcome

    def _sent(self, order: Order) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that sends the requests has ended; it says above why")
        return Outcome(**json.loads(line))


def _request(browser: Browser, path: str) -> str:
    scope = browser.scope(path)
    lines = [f"{name.decode().title()}: {value.decode('latin-1')}\r\n" for name, value in scope["headers"]]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n"
