"""Sessions in Redis and PostgreSQL, beside another package over the same Redis.

Reading order: `in_servers` (the candidates), `measure_servers` (one run), `as_markdown`.

The server runs in a process of its own: its CPU time is in no figure of CPU time. What it spends is told by
the servers themselves, as microseconds of their CPU for each request of a case.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import psycopg
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarSessions
from starsessions.stores.redis import RedisStore

from session_middleware import SessionMiddleware
from tests.benchmarks import measure, report
from tests.benchmarks.apps import BARE, CASES, PAGES, Candidate, Case, Page, handlers, ignore
from tests.benchmarks.checks import signed_in
from tests.benchmarks.frameworks import DJANGO, LITESTAR, OURS_DJANGO, OURS_LITESTAR, in_django, in_litestar
from tests.benchmarks.measure import Effort, Samples, ratio
from tests.benchmarks.report import Crowd, machine, overheads, table, where_and_when
from tests.benchmarks.traffic import Browser, given_up, running, serve
from tests.servers.postgres import PostgresServer, postgres_server
from tests.servers.redis import RedisServer, client, redis_server

__all__ = ["SERVERS_SECTION", "ServerFigures", "as_json", "as_markdown", "measure_servers"]

SERVERS_SECTION = "server figures"
OURS_REDIS, OURS_POSTGRES, STARSESSIONS_REDIS = "ours, Redis", "ours, PostgreSQL", "starsessions, Redis"
_PACKAGES: Final = ("starlette", "starsessions", "redis", "hiredis", "psycopg", "litestar", "django")
_COUNTING: Final = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_planning": "on",
}
_KEY: Final = secrets.token_urlsafe(32)
_LIFETIME: Final = 14 * 24 * 60 * 60  # seconds
_COUNTED: Final = 200  # requests by which the servers' own cost is told
_OUR_OWN: Final = frozenset({"cmdstat_config|resetstat", "cmdstat_info", "cmdstat_client|setinfo"})
# What a script calls is counted with the script, and once more by itself.
_IN_SCRIPTS: Final = frozenset(f"cmdstat_{name}" for name in ("hset", "hdel", "hmget", "pexpire", "del"))


@dataclass(frozen=True, slots=True)
class Within:
    """One request at a time in another framework: its own sessions and ours, CPU and wall time."""

    theirs: str
    ours: str
    cpu: Samples
    wall: Samples


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """What one run measured. `spent`: microseconds of the server for one request, by app and case."""

    day: str
    effort: Effort
    crowds: Sequence[Crowd]
    frameworks: Sequence[Within]
    spent: dict[str, dict[Case, float]]


def measure_servers(day: str, effort: Effort, clients: Sequence[int]) -> ServerFigures:
    """One client at a time, then many at once; then what the servers spend."""
    with redis_server() as redis, postgres_server(_COUNTING) as postgres:
        crowds = [_crowd(redis, postgres, effort, number) for number in clients]
        spent = {
            one.name: asyncio.run(_spent(_time_of(redis, postgres, one), one))
            for one in in_servers(redis, postgres)
            if one.has_session
        }
        own = Effort(max(1, effort.rounds // 10), effort.requests)
        with in_litestar(redis) as candidates:
            litestar = Within(LITESTAR, OURS_LITESTAR, *asyncio.run(measure.measure(candidates, own)))
        with in_django(postgres) as candidates:
            django = Within(DJANGO, OURS_DJANGO, *asyncio.run(measure.measure(candidates, own)))
    return ServerFigures(day, effort, crowds, [litestar, django], spent)


def in_servers(redis: RedisServer, postgres: PostgresServer) -> list[Candidate]:
    """Bare, a peer and ours, each with a store of its own."""
    pages: dict[str, Page] = dict.fromkeys(PAGES, ignore)
    ours = [(OURS_REDIS, redis.new_store()), (OURS_POSTGRES, postgres.new_store())]
    return [
        Candidate(BARE, handlers(pages=pages), frozenset(), has_session=False),
        _starsessions(redis.new_store()),
        *(
            Candidate(name, SessionMiddleware(handlers(), _KEY, backend=url), frozenset({"new"}))
            for name, url in ours
        ),
    ]


def _starsessions(url: str) -> Candidate:
    """With its autoload, so that handlers need not change; it saves and sets its cookie at each request."""
    inner = SessionAutoloadMiddleware(handlers())
    app = StarSessions(inner, store=RedisStore(url), lifetime=_LIFETIME, rolling=True)
    return Candidate(STARSESSIONS_REDIS, app, frozenset({"untouched", "read", "write", "new"}))


def _crowd(redis: RedisServer, postgres: PostgresServer, effort: Effort, clients: int) -> Crowd:
    own = Effort(max(1, effort.rounds // 5), effort.requests if clients == 1 else 4)
    cpu, wall = asyncio.run(measure.measure(in_servers(redis, postgres), own, clients=clients))
    return Crowd(clients, cpu, wall)


_Time: TypeAlias = Callable[[], AbstractContextManager[Callable[[], float]]]


def _time_of(redis: RedisServer, postgres: PostgresServer, candidate: Candidate) -> _Time:
    """That of the server behind this one."""
    return (
        partial(_time_in_postgres, postgres)
        if candidate.name == OURS_POSTGRES
        else partial(_time_in_redis, redis)
    )


async def _spent(time_spent: _Time, candidate: Candidate) -> dict[Case, float]:
    spent: dict[Case, float] = {}
    async with running(candidate.app):
        browser = await signed_in(candidate)
        for case in CASES:
            own = Browser() if case in {"none", "new"} else browser
            scopes = [own.scope(f"/{case}") for _ in range(_COUNTED)]
            with time_spent() as took:
                await serve(candidate.app, given_up(scopes))
                spent[case] = took() / _COUNTED
    return spent


@contextmanager
def _time_in_redis(redis: RedisServer) -> Iterator[Callable[[], float]]:
    """Microseconds that commands have taken in the server since the beginning (`INFO commandstats`)."""
    with client(redis.url) as operator:
        operator.config_resetstat()

        def took() -> float:
            stats: dict[str, Any] = operator.info("commandstats")
            scripted = _IN_SCRIPTS if "cmdstat_evalsha" in stats else frozenset()
            return float(sum(one["usec"] for name, one in stats.items() if name not in scripted | _OUR_OWN))

        yield took


@contextmanager
def _time_in_postgres(postgres: PostgresServer) -> Iterator[Callable[[], float]]:
    """Microseconds that statements were planned and executed since the beginning (`pg_stat_statements`)."""
    with psycopg.connect(postgres.url, autocommit=True) as operator:
        operator.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        operator.execute("SELECT pg_stat_statements_reset()")

        def took() -> float:
            [milliseconds] = operator.execute(
                "SELECT sum(total_exec_time + total_plan_time) FROM pg_stat_statements"
                " WHERE query LIKE '%session_middleware_session%'"
            ).fetchone() or [0.0]
            return float(milliseconds or 0.0) * 1000

        yield took


# --- the tables ---


def as_markdown(figures: ServerFigures) -> str:
    """Everything, as sections of a document."""
    parts = [where_and_when(figures.day, figures.effort, figures.crowds[0].cpu, machine(_PACKAGES))]
    for crowd in figures.crowds:
        at_once = "one request at a time" if crowd.clients == 1 else f"{crowd.clients} clients at once"
        for name, samples in (("CPU time", crowd.cpu), ("wall time", crowd.wall)):
            parts += [f"### {at_once.capitalize()}: {name}\n", overheads(samples)]
        found = ", ".join(f"{case} {_ratio(crowd.cpu, case):.2f}" for case in CASES[1:])
        wall = ", ".join(f"{case} {_ratio(crowd.wall, case):.2f}" for case in CASES[1:])
        parts.append(f"{OURS_REDIS} over {STARSESSIONS_REDIS}: CPU {found}; wall time {wall}.\n")
    for within in figures.frameworks:
        for name, samples in (("CPU time", within.cpu), ("wall time", within.wall)):
            parts += [f"### {within.theirs}, and {within.ours}: {name}\n", overheads(samples)]
        found = ", ".join(
            f"{case} {ratio(within.cpu, within.ours, within.theirs, case):.2f}" for case in CASES[1:]
        )
        parts.append(f"{within.ours} over {within.theirs}: CPU {found}.\n")
    rows = [[name, *(f"{spent[case]:.1f}" for case in CASES)] for name, spent in figures.spent.items()]
    parts += ["### What the servers spend\n", table(["µs of the server for one request", *CASES], rows)]
    return "\n".join(parts)


def _ratio(samples: Samples, case: str) -> float:
    return ratio(samples, OURS_REDIS, STARSESSIONS_REDIS, case)


def as_json(figures: ServerFigures) -> dict[str, object]:
    """Everything, ready for `json.dumps`. Microseconds."""
    return {
        "day": figures.day,
        "machine": report.machine(_PACKAGES),
        "crowds": [
            {"clients": one.clients, "cpu": measure.as_json(one.cpu), "wall": measure.as_json(one.wall)}
            for one in figures.crowds
        ],
        "frameworks": [
            {"ours": one.ours, "theirs": one.theirs, "cpu": measure.as_json(one.cpu)}
            for one in figures.frameworks
        ],
        "spent": figures.spent,
    }
