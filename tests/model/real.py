"""The real middleware behind the driver's `System`: what the model promises, asked of the product.

Reading order: `RealSystem` (the server side), `RealHandle` (one ASGI call and its handler), `SteppedPort`
(where a request is held up), `Shelf` (the backends). The coroutine of a call is driven by hand: `step` sends
into it until it reaches the next point. No event loop runs: `Finisher`, which makes an asyncio task of every
operation, is replaced by one that awaits the operation in place, and there is no heartbeat.

A request is held up before every backend call. Between an answer and what it does next it touches nothing
that others see, so a second point after the call would add one thing only: the response leaves later than its
commit, which is a network that turns responses round (`World.reorders`). With `answers=True` that point is
there too; the driver then judges what is stored, and no responses (see `RecordsOnly`).

Ids are numbered, not random, so that a schedule is the same run every time.
"""

from __future__ import annotations

import sqlite3
import tempfile
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import psycopg

from session_middleware import MemoryBackend, SessionManager, SessionMiddleware
from session_middleware.backends.base import Colour, EndedRecord, LoadAnswer, Port
from session_middleware.backends.postgres import PostgresBackend
from session_middleware.backends.redis import RedisBackend
from session_middleware.backends.sqlite import SQLiteBackend
from session_middleware.blocking import run_blocking
from session_middleware.cookies import Credential
from session_middleware.errors import BackendUnavailable, ResponseStartedError
from session_middleware.events import SessionEvent
from session_middleware.loops import Finisher
from session_middleware.record import Committed, CreateResult, Delta, Record, Refused, SessionId
from session_middleware.session import Session
from session_middleware.testing.clock import ManualClock
from session_middleware.values import decode_values
from tests.model.invariants import Ledger
from tests.model.system import Action, Fault, Response, Seen
from tests.model.tables import ABSOLUTE, GRACE, IDLE, PRIVILEGE_KEY, USER_KEY
from tests.model.world import Visit
from tests.servers.postgres import postgres_server
from tests.servers.redis import client, redis_server

__all__ = [
    "SYSTEMS",
    "MemoryShelf",
    "PostgresShelf",
    "RealHandle",
    "RealSystem",
    "RecordsOnly",
    "RedisShelf",
    "SQLiteShelf",
    "Shelf",
    "SteppedPort",
    "shelf_of",
]

T = TypeVar("T")
KEY = "a key for tests, with more than 32 bytes in it"
ACCEPT = (b"accept", b"text/html")  # a navigation: with `eager` it is answered with a promise


class CrashError(Exception):
    """What a handler raises that crashes."""


class RecordsOnly(Ledger):
    """Judges what is stored and that everybody can write in the end; no first looks, no responses."""

    def looked(self, visit: Visit, at: int, now: float) -> None:
        """What it saw may be older than this step."""

    def answered(self, visit: Visit, note: object, response: Response, at: int, now: float) -> None:
        """Its cookie may have been decided steps ago."""


@types.coroutine
def point(name: str) -> Generator[str, None, None]:
    """Suspend here until the driver steps on."""
    yield name


# The server side


class RealSystem:
    """See `system.System`. A control breaks `middleware` and `port`; `options` are more of the manager's."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        eager: bool = False,
        answers: bool = False,
        port: type[SteppedPort] | None = None,
        middleware: type[SessionMiddleware] = SessionMiddleware,
        **options: Any,
    ) -> None:
        self.clock = ManualClock(0.0)
        self.port = (port or SteppedPort)(shelf.fresh(), self, answers=answers)
        self.current: RealHandle | None = None
        self.requests = count()
        self._ids = count()
        self._serial = next(_SERIALS)
        self._seen: dict[str, View] = {}
        self.manager = NumberedManager(self.port, self.mint_one, self.clock, **options)
        self.middleware = middleware(_serve, manager=self.manager, eager=eager)
        self.codec = self.manager.codec
        self.manager.subscribe("session_data_save_failed", self._lose)
        self.manager.subscribe("session_deletion_failed", self._note_failed_end)

    def start_request(self, cookies: Sequence[str], actions: Sequence[Action]) -> RealHandle:
        return RealHandle(self, [self._to_send(text) for text in cookies], actions)

    def set_clock(self, now: float) -> None:
        self.clock.now = now

    def peek(self) -> Mapping[str, View]:
        if self.port.touched:
            seen = dict(self._seen)
            for id_ in self.port.touched:
                record = run_blocking(self.port.real.load(id_, 0.0))  # when nothing had expired yet
                seen.pop(id_, None)
                if isinstance(record, Record):
                    seen[id_] = View.of(record)
            self.port.touched.clear()
            self._seen = seen
        return self._seen

    def revoke(self, session_id: str) -> None:
        run_blocking(self.manager.delete_session(session_id))

    def clean_up(self) -> None:
        run_blocking(self.manager.cleanup_expired())

    def mint_one(self) -> tuple[SessionId, str]:
        """A new id and secret of the shape that cookies carry."""
        text = f"{self._serial:08d}{next(self._ids):013d}A"
        return SessionId(text), "x" + text[1:]

    def _lose(self, event: SessionEvent) -> None:
        keys = event.fields["keys"]
        assert isinstance(keys, list)
        if self.current is not None:
            self.current.lost.extend(keys)

    def _note_failed_end(self, event: SessionEvent) -> None:
        if self.current is not None and event.fields["reason"] == "backend_error":
            self.current.end_failed = True

    def _to_send(self, text: str) -> str:
        """The driver tells promises by their last part; their bytes do not."""
        id_, secret, generation, signature = text.split(".")
        if signature != "promise":
            return text
        return self.codec.sign_promise(Credential(SessionId(id_), secret, int(generation)))

    def response(self, message: Mapping[str, Any]) -> Response:
        """What the driver is told of a response that leaves."""
        ours = [v.decode() for name, v in message["headers"] if name == b"set-cookie"]
        assert len(ours) <= 1, ours
        if not ours:
            return Response(message["status"])
        value = ours[0].partition("=")[2].partition(";")[0]
        if value == "null":
            return Response(message["status"], removes=True)
        promise = self.codec.verify_promise(value.encode())
        if promise is None:
            return Response(message["status"], value)
        text = f"{promise.id}.{promise.secret}.{promise.generation}.promise"
        return Response(message["status"], text, is_promise=True)


_SERIALS = count()


@dataclass(frozen=True, slots=True)
class View:
    """See `system.Stored`."""

    generation: int
    floors: tuple[int, ...]
    created_at: float
    deadline: float
    limit: float
    user_id: str | None
    cycle_due: float | None
    data: Mapping[str, str | int]
    version: int
    """Not asked for: it tells that a commit came that changed nothing else."""

    @classmethod
    def of(cls, record: Record) -> View:
        return cls(
            record.generation,
            record.floors,
            record.created_at,
            record.deadline,
            record.limit,
            record.user_id,
            record.cycle_due,
            decode_values(record.data),
            record.version,
        )


class InPlace(Finisher):
    """Awaits an operation where it is asked for: nobody is cancelled here, and there is no event loop."""

    async def finish(self, operation: Coroutine[Any, Any, T]) -> T:
        return await operation


class NumberedManager(SessionManager):
    """Takes ids from the driver."""

    def __init__(
        self,
        port: SteppedPort,
        mint: Callable[[], tuple[SessionId, str]],
        clock: Callable[[], float],
        **options: Any,
    ) -> None:
        super().__init__(
            port,
            secret_key=KEY,
            idle_timeout=IDLE,
            absolute_timeout=ABSOLUTE,
            grace=GRACE,
            privilege_keys=(PRIVILEGE_KEY, USER_KEY),
            user_keys=(USER_KEY,),
            max_age=int(IDLE),
            clock=clock,
            monotonic=lambda: 0.0,
            log=False,
            log_context=False,
            **options,
        )
        self._numbered = self.performer._mint = mint
        self.finisher = InPlace(self.backend_timeout)

    @property
    def mint(self) -> Callable[[], tuple[SessionId, str]]:
        return self._numbered


# One request


async def _serve(scope: Any, receive: Any, send: Any) -> None:
    handle: RealHandle = scope["handle"]
    await handle.serve(scope["session"], send)


class RealHandle:
    """See `system.Handle`."""

    def __init__(self, system: RealSystem, cookies: Sequence[str], actions: Sequence[Action]) -> None:
        self.system = system
        self.actions = list(actions)
        self.number = next(system.requests)
        self.seen: Seen | None = None
        self.response: Response | None = None
        self.lost: list[str] = []
        self.done = False
        self.end_failed = False
        self.fault: Fault = None
        header = "; ".join(f"session={cookie}" for cookie in cookies).encode()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "scheme": "http",
            "headers": [ACCEPT, (b"cookie", header)] if header else [ACCEPT],
            "handle": self,
        }
        self._scope = scope
        self._call: Coroutine[Any, Any, None] | None = None

    def step(self, fault: Fault = None) -> str | None:
        self.fault = fault
        self.system.current = self
        if self._call is None:
            self._call = self.system.middleware(self._scope, _no_body, self._send)
        try:
            where: str = self._call.send(None)
        except StopIteration:
            self.done = True
        except CrashError:  # the server answers it; its error page tells nobody that he is logged out
            self.done = True
            self.response = self.response or Response(503 if self.end_failed else 500)
        else:
            return where
        finally:
            self.system.current = None
        return None

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.response = self.system.response(message)

    # The handler

    async def serve(self, session: Session, send: Callable[[Any], Awaitable[None]]) -> None:
        """What the app does."""
        session.mark_accessed()
        record = session.life.record
        data = cast("dict[str, str | int]", dict(session))
        self.seen = Seen(None, None, data) if record is None else Seen(record.id, record.user_id, data)
        await point("handler")
        status = await self._early(session)
        await send({"type": "http.response.start", "status": status, "headers": []})
        if self.actions:
            await point("late")
            for action in self.actions:
                self._act(session, action)
        await send({"type": "http.response.body", "body": b""})

    async def _early(self, session: Session) -> int:
        while self.actions:
            action = self.actions.pop(0)
            if action == ("late",):
                break
            if action == ("crash",):
                self.actions.clear()
                if self.number % 2:
                    raise CrashError
                return 500
            if action == ("save",):
                await self.system.manager.save(session)
                await point("handler")
            else:
                self._act(session, action)
        return 200

    def _act(self, session: Session, action: Action) -> None:
        name, *arguments = action
        try:
            self._do(session, action)
        except ResponseStartedError:
            self.lost.append("login" if name == "login" else str(arguments[0]))

    def _do(self, session: Session, action: Action) -> None:  # noqa: C901 - one case an action
        match action:
            case ("write", str(key), str(value)):
                session[key] = value
            case ("inc", str(key)):
                session.increment(key)
            case ("pop", str(key)):
                session.pop(key, None)
            case ("pop_all",):
                for key in list(session):
                    self._act(session, ("pop", key))
            case ("cycle", float(grace)):
                session.cycle(grace)
            case ("login", str(user)):
                session.login(user)
            case ("logout",):
                session.logout()
            case ("clear",):
                session.clear()
            case ("renew",):
                session.renew()
            case ("expiry", float(seconds)):
                session.set_expiry(seconds)


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


# The backends


class SteppedPort:
    """A backend and its port, which holds up the current request before each call; `touched`: changed ids."""

    url = "stepped://"
    colours: frozenset[Colour] = frozenset({"async"})
    immediate = False

    def __init__(self, real: Port, system: RealSystem, *, answers: bool) -> None:
        self.real = real
        self.system = system
        self.answers = answers
        self.touched: set[SessionId] = set()
        self._ids: set[SessionId] = set()

    def port(self, colour: Colour) -> SteppedPort:
        return self

    async def _held_up(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        handle = self.system.current
        if handle is None:
            return await operation()
        await point(f"backend: {name}")
        fault, handle.fault = handle.fault, None
        if fault == "before":
            raise BackendUnavailable("the call did not arrive")
        answer = await operation()
        if fault == "after":
            raise BackendUnavailable("the answer did not arrive", unknown=True)
        if self.answers:
            await point(f"answer: {name}")
        return answer

    async def open(self) -> None:
        await self.real.open()

    async def close(self) -> None:
        await self.real.close()

    async def load(self, id: SessionId, now: float) -> LoadAnswer:  # noqa: A002 - as `Port` has it
        return await self._held_up("load", lambda: self.real.load(id, now))

    async def create(self, record: Record, now: float) -> CreateResult:
        def operation() -> Awaitable[CreateResult]:
            self._touch(record.id)
            return self.real.create(record, now)

        return await self._held_up("create", operation)

    async def commit(self, id: SessionId, delta: Delta, now: float) -> Committed | Refused:  # noqa: A002  (the contract's word)
        def operation() -> Awaitable[Committed | Refused]:
            self._touch(id)
            return self.real.commit(id, delta, now)

        return await self._held_up("commit", operation)

    async def delete(self, id: SessionId, now: float, reason: str, by: str | None = None) -> bool:  # noqa: A002  (the contract's word)
        def operation() -> Awaitable[bool]:
            self._touch(id)
            return self.real.delete(id, now, reason, by)

        return await self._held_up("delete", operation)

    async def delete_expired(self, now: float, limit: int) -> Sequence[EndedRecord]:
        self.touched |= self._ids
        return await self.real.delete_expired(now, limit)

    async def wait(self, seconds: float) -> None:
        """Nobody waits here."""

    def _touch(self, id_: SessionId) -> None:
        self._ids.add(id_)
        self.touched.add(id_)


class Shelf:
    """Where a schedule's records live."""

    def fresh(self) -> Port:
        """An empty one, whose methods never suspend."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of it."""


class MemoryShelf(Shelf):
    """A new `MemoryBackend` for every schedule."""

    def fresh(self) -> Port:
        return MemoryBackend().port("blocking")


class RedisShelf(Shelf):
    """One database of a server, emptied before every schedule."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._port = RedisBackend(url).port("blocking")

    def fresh(self) -> Port:
        run_blocking(self._port.open())
        with client(self._url) as operator:
            operator.flushdb()
        return self._port

    def close(self) -> None:
        run_blocking(self._port.close())


class PostgresShelf(Shelf):
    """One schema of a server, likewise."""

    def __init__(self, url: str) -> None:
        self._operator = psycopg.connect(url, autocommit=True)
        self._port = PostgresBackend(url).port("blocking")

    def fresh(self) -> Port:
        run_blocking(self._port.open())
        self._operator.execute("DELETE FROM session_middleware_session")
        return self._port

    def close(self) -> None:
        self._operator.close()
        run_blocking(self._port.close())


class SQLiteShelf(Shelf):
    """One file, emptied before every schedule: to make one takes longer than a schedule does."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sessions.db"
        self._port = SQLiteBackend(self._path).port("blocking")

    def fresh(self) -> Port:
        run_blocking(self._port.open())
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM session")
            connection.execute("DELETE FROM ending")
        return self._port

    def close(self) -> None:
        run_blocking(self._port.close())


SYSTEMS = ("memory", "sqlite", "redis", "postgres")


@contextmanager
def shelf_of(name: str) -> Iterator[Shelf]:
    """Where the records of the real middleware live, for as long as a campaign takes."""
    with ExitStack() as stack:
        if name == "memory":
            shelf: Shelf = MemoryShelf()
        elif name == "sqlite":
            shelf = SQLiteShelf(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        elif name == "redis":
            shelf = RedisShelf(stack.enter_context(redis_server()).new_store())
        else:
            shelf = PostgresShelf(stack.enter_context(postgres_server()).new_store())
        yield shelf
        shelf.close()
