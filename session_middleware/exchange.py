"""One request or WebSocket over ASGI, from its first byte to the commit of what came late.

Reading order: `Entrance` (what all requests of one middleware share), then `Exchange`, in the order of a
request's life: opened, committed before the response leaves, committed again for what came afterwards.

`Exchange` is made for every request and does as little as it can: an app that does not look at the session
pays for one object and one look-up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from math import ceil
from secrets import token_hex
from typing import Any, Literal, TypeAlias, TypeVar

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from session_middleware.activity import ActiveRequest
from session_middleware.blocking import run_blocking
from session_middleware.cookies import LOOKED_AT_MOST, CookieCodec, CookieReading, Credential
from session_middleware.errors import BackendError, SessionCapacityError
from session_middleware.headers import Headers, forbid_storing, host_of, is_local, vary_by_cookie, wants_html
from session_middleware.importing import Importer, Sighting
from session_middleware.loops import Home
from session_middleware.manager import SessionManager
from session_middleware.outage import Met
from session_middleware.perform import Performer
from session_middleware.plan import is_settled
from session_middleware.record import Record
from session_middleware.reporting import bind_request_context, unbind_request_context
from session_middleware.session import Fresh, Life, Live, Opening, Session, SetCookie, UnreadSession
from session_middleware.values import JsonValue

__all__ = ["Entrance", "Exchange", "Matcher"]

T = TypeVar("T")

Matcher: TypeAlias = Callable[[Scope], bool]

_ACCEPTED = 101  # the status of an accepted WebSocket
_ERROR = 500  # from this status on, nothing but an ending is saved
_RETRY_AFTER = 2  # seconds
_PROCESS = token_hex(4)  # tells request ids of several processes apart
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_PHRASES = {429: b"Too many requests for one session", 503: b"Service unavailable, try again in a moment"}
_SUSPICIOUS = "session_suspicious_activity"
_OF_REQUESTS = ("request_started", "request_finished")


class Entrance:
    """What all requests of one middleware share."""

    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager,
        *,
        optional: Matcher | None,
        passive: Matcher | None,
        eager: bool = False,
        performer: Performer | None = None,
        codec: CookieCodec | None = None,
    ) -> None:
        """*performer*, *codec*: the manager's, unless an entrance has another colour or key."""
        self.app = app
        self.manager = manager
        self.optional = optional
        self.passive = passive
        self.eager = eager
        self.performer = manager.performer if performer is None else performer
        self.codec = manager.codec if codec is None else codec
        self.name = self.codec.settings.session_cookie
        self.immediate = self.performer.port.immediate
        self.importer = Importer(self.performer, manager.import_from) if manager.import_from else None
        self.always_opens_first = not self.immediate or eager
        # What every request asks for, looked up once: properties of the manager, and constant.
        self.activity = manager.activity
        self.budget = manager.budget
        self.reporter = manager.reporter
        self.heartbeat = manager.heartbeat
        self.clock = manager.clock
        self.lifetime = manager.lifetime
        self.outage = manager.finisher.outage
        self.weak_key = self.codec.weak_key  # None once it was told
        self.warned_of_http = False
        self.next_cleanup = 0.0  # monotonic seconds; for apps without a lifespan

    @property
    def opens_first(self) -> bool:
        """Whether the session is loaded before the app is called. A limit may come while it runs."""
        manager = self.manager
        limited = manager.max_requests_per_session is not None or manager.rate_limit is not None
        return limited or self.always_opens_first

    def warn_of_weak_key(self) -> None:
        """Once, and not at construction: nobody listens to events then."""
        why, self.weak_key = self.weak_key, None
        remedy = "use 32 random bytes: secrets.token_urlsafe(32); keep this key in fallback_keys for a while"
        self.warn("weak_key", {"why": why, "remedy": remedy})

    def warn(self, activity_type: str, details: dict[str, object]) -> None:
        """Something that weakens every session of this app, or what an attacker does."""
        now = self.manager.clock()
        self.manager.reporter.emit(_SUSPICIOUS, None, None, now, activity_type=activity_type, details=details)


class Exchange(ActiveRequest):
    """One request or WebSocket and its session."""

    # Defaults on the class, not slots: what a request does not change costs it nothing.
    life: Life | None = None  # what the cookies opened, where that was found out before the first look
    old: Sighting | None = None  # a cookie of another package, where there is none of ours
    status = 0
    retry_after = _RETRY_AFTER
    now = 0.0  # seconds since the epoch, read once per phase
    began = 0.0  # monotonic seconds, of an observed request
    started = False  # the response has left
    refused = False  # we answered instead of the app
    interrupted = False  # cancelled while its commit was under way, which goes on
    abandoned = False  # its coroutine was closed: nothing may be awaited any more
    closed = False  # the WebSocket is closed, by whomever
    revoked = False  # by us
    disconnected = False  # by the client
    context_bound = False
    home: Home | None = None  # of a WebSocket: the event loop in which it is spoken to

    def __init__(self, entrance: Entrance, scope: Scope, receive: Receive, send: Send) -> None:
        self.path = scope["path"]
        self.entrance = entrance
        self.scope = scope
        self.receive = receive
        self.send = send
        session: Session = UnreadSession(self._open_now)
        self.session = scope["session"] = session
        served = scope.get("session_middleware")
        ours = {entrance.name: session}
        scope["session_middleware"] = ours if served is None else {**served, **ours}

    # --- from beginning to end ---

    async def run(self) -> None:
        """Serve it."""
        entrance = self.entrance
        activity, reporter = entrance.activity, entrance.reporter
        entrance.budget.requests += 1
        limit = entrance.manager.max_concurrent_requests
        if limit is not None and len(activity) >= limit:
            await self._refuse(503, active=len(activity), limit=limit)
            return
        activity.enter(self)
        observed = reporter.wants_any(_OF_REQUESTS) and self._report_start()
        failed = True
        try:
            if entrance.heartbeat.is_at_rest:
                entrance.heartbeat.ensure()
            if entrance.lifetime.is_closed and not await self._reopens():
                return
            if not entrance.opens_first or await self._open_first():
                receive, send = self.receive, self._send
                if self.scope["type"] == "websocket":
                    receive, send, self.home = self._receive_socket, self._send_socket, Home()
                try:
                    await entrance.app(self.scope, receive, send)
                except Exception as problem:  # whatever the app raises: 503 where it comes from us
                    if not await self._is_answered(problem):
                        raise
            failed = self.status >= _ERROR
        except GeneratorExit:
            self.abandoned = not entrance.immediate
            raise
        finally:
            try:
                if type(self.session) is not UnreadSession:
                    await self._conclude(failed=failed and not self.disconnected)
            finally:
                self._depart(observed=observed)

    async def _reopens(self) -> bool:
        """Open the backend of a manager that was stopped; False if it cannot be, and that was the answer."""
        try:
            await self.entrance.lifetime.open()
        except BackendError as problem:
            await self._refuse(503, problem=problem)
            return False
        return True

    async def _is_answered(self, problem: Exception) -> bool:
        """Whether the visitor has our answer, and the operator our event."""
        if self.refused:
            return True
        if self.started or not isinstance(problem, BackendError | SessionCapacityError):
            return False
        await self._refuse(503, problem=problem)
        return True

    async def _conclude(self, *, failed: bool) -> None:
        """Of a request that looked: save what came late; clean up where nobody else does."""
        self.session.life.late = True
        if not is_settled(self.session, self.now):
            await self._end(failed=failed)
        if not (self.entrance.lifetime.is_started or self.abandoned):
            await self._clean_up_now_and_then()

    def _depart(self, *, observed: bool) -> None:
        """It is over. Scope, session and request held each other: apart, they need no garbage collector.

        A first look may still come, with the scope as it is now.
        """
        self.entrance.activity.leave(self)
        if self.context_bound:
            unbind_request_context()
        if observed:
            self._report_finish()
        if type(self.session) is not UnreadSession:
            self.life = None  # it knows how to ask this request for facts of the client
        self.receive, self.send = _gone, _nowhere  # the server's, which hold the scope they were made for
        scope = self.scope = dict(self.scope)
        del self.session, scope["session"], scope["session_middleware"]

    async def _end(self, *, failed: bool) -> None:
        """Save what came after the response left, or with no response at all."""
        manager, session = self.entrance.manager, self.session
        if self.refused or self.interrupted:
            return
        if failed and self.started and self.status < _ERROR and not session.life.policy.save_on_error:
            manager.performer.report_lost(session, manager.clock())
        opening = session.life.opening
        commit = self.entrance.performer.commit_late(session, manager.clock(), failed=failed)
        if self.abandoned:
            manager.finisher.leave(commit)
            return
        try:
            await self._finish(commit)
        except SessionCapacityError:  # an event has named the keys, and nobody is left to be answered
            return
        except BackendError as problem:  # the same
            self._note_failure("commit", problem)
        else:
            self._note_commit(opening)

    async def _clean_up_now_and_then(self) -> None:
        """One small step after a response, where no lifespan runs the periodic cleanup."""
        entrance, manager = self.entrance, self.entrance.manager
        now = manager.monotonic()
        if now < entrance.next_cleanup or self.scope["type"] != "http":
            return
        first, entrance.next_cleanup = entrance.next_cleanup == 0.0, now + manager.cleaner.interval
        if first or not manager.cleaner.may_run():
            return
        try:
            if await self._finish(manager.cleanup_step()):
                entrance.next_cleanup = now  # there may be more: go on after the next response
        except BackendError as problem:
            manager.reporter.emit("sessions_cleanup_failed", None, None, manager.clock(), exception=problem)

    # --- opening ---

    async def _open_first(self) -> bool:
        """Load the session before the app runs; False if the request was answered instead."""
        self.now = self.entrance.manager.clock()
        self.session.opener = self._show_opened
        reading = self._read_cookies()
        if not (reading.credentials or reading.promises or self.old):
            return True
        try:
            life = self.life = await self._finish(self._opened_by(reading))
        except BackendError as problem:
            return await self._do_without(reading, problem)
        self._note_success("load")
        record = life.record
        if record is not None:
            if not await self._admits(record):
                return False
            self._bind_context(record)
            if self.entrance.eager and self._is_navigation():
                # For the page, whose app looks only later and by a WebSocket: the commit renews, carries out
                # a cycle that waits for a response, replaces a promise by an ordinary cookie.
                self.session.mark_accessed()
                self.session.accessed = False  # our own reads are no look
        return True

    async def _do_without(self, reading: CookieReading, problem: BackendError) -> bool:
        """The backend cannot say whose cookie it is: 503, or on `optional` routes a read-only session."""
        entrance, manager = self.entrance, self.entrance.manager
        for credential in reading.credentials or reading.promises:
            manager.reporter.emit(_NOT_RETRIEVED, credential.id, None, self.now, reason="unavailable")
        if entrance.optional is None or not entrance.optional(self.scope):
            await self._refuse(503, problem=problem)
            return False
        self._note_failure("load", problem)
        self.life = Life(manager.policy, manager)
        self.life.degraded = True
        return True

    async def _admits(self, record: Record) -> bool:
        """Count it among the requests of its session, looked at or not; False if that are too many."""
        manager = self.entrance.manager
        limit = manager.max_requests_per_session
        active = 0 if limit is None else len(manager.activity.holding(record.id))
        if limit is not None and active >= limit:  # first: what is refused does not count for the rate
            await self._refuse(429, active=active, limit=limit)
            return False
        if not await self._comes_in_time(record):
            return False
        if limit is not None:
            counted = Session()
            counted.life = Life(manager.policy, manager, Live(record, record.generation))
            manager.activity.hold(self, counted, self.now)
            self.held = None  # until it looks, it renews nothing
        return True

    async def _comes_in_time(self, record: Record) -> bool:
        """Count it for the rate limit; False if it was refused for that."""
        rate_limit = self.entrance.manager.rate_limit
        wait = None if rate_limit is None else rate_limit.wait_of(record.id)
        if rate_limit is None or wait is None:
            return True
        self.retry_after = ceil(wait)
        active = len(self.entrance.manager.activity.holding(record.id))
        await self._refuse(429, active=active, limit=rate_limit.text)
        return False

    def _open_now(self, session: Session) -> None:
        """The first look, over a backend that answers at once."""
        self.now = self.entrance.clock()
        reading = self._read_cookies()
        if reading.credentials or reading.promises or self.old:
            self.life = run_blocking(self._opened_by(reading))
            if self.entrance.outage.failing is not None:
                self._note_success("load")
        self._show_opened(session)

    def _opened_by(self, reading: CookieReading) -> Coroutine[Any, Any, Life]:
        entrance = self.entrance
        if self.old is None or entrance.importer is None:
            return entrance.performer.open(reading, self.now)
        return entrance.importer.open(self.old.session, self.now)

    def _read_cookies(self) -> CookieReading:
        entrance = self.entrance
        if entrance.weak_key is not None:
            entrance.warn_of_weak_key()
        reading = entrance.codec.read(self.scope["headers"])
        rejected = reading.rejected
        if entrance.importer is not None and not (reading.credentials or reading.promises):
            self.old = entrance.importer.sighted(self.scope["headers"], self.now)
            rejected -= self.old is not None and self.old.name == entrance.name
        for _ in range(min(rejected, LOOKED_AT_MOST)):  # a header of 64 kB has room for thousands
            entrance.warn("bad_signature", {"path": self.path})
        return reading

    def _show_opened(self, session: Session) -> None:
        """Fill the session at its first look, and hold it from then on."""
        entrance = self.entrance
        entrance.performer.fill(session, self._opened(), self.now)
        life = session.life
        life.late = self.started
        if entrance.manager.client_facts is not None:
            life.client = self._client_facts
        if entrance.passive is not None:
            life.passive = entrance.passive(self.scope)
        self._hold(session)

    def _client_facts(self) -> Mapping[str, JsonValue]:
        facts_of = self.entrance.manager.client_facts
        return {} if facts_of is None else facts_of(self.scope)

    def _opened(self) -> Life:
        if self.life is None:
            self.life = Life(self.entrance.manager.policy, self.entrance.manager)
        return self.life

    def _hold(self, session: Session) -> None:
        """The request holds its session from the first look, or from the commit that made it."""
        entrance, record = self.entrance, session.life.record
        if record is None or (self.held is not None and self.session_id == record.id):
            return
        if entrance.activity.hold(self, session, self.now):  # else it is over, and looked only now
            self._bind_context(record)
            self._keep_renewed(record)

    def _keep_renewed(self, record: Record) -> None:
        """See to it that the session does not idle out while it is held."""
        heartbeat = self.entrance.heartbeat
        if record.idle_timeout is not None:
            heartbeat.hurry()
        if self.scope["type"] == "websocket":
            heartbeat.attend()

    def _bind_context(self, record: Record) -> None:
        if self.entrance.manager.log_context and structlog.is_configured():
            bind_request_context(*_who(record), f"{_PROCESS}-{self.number}")
            self.context_bound = True

    # --- the response ---

    def _send(self, message: Message) -> Awaitable[None]:
        if self.started or message["type"] not in _STARTS:
            return _dropped() if self.refused else self.send(message)
        return self._start(message)

    def _start(self, message: Message) -> Awaitable[None]:
        """Commit where there is anything to commit, and let the response leave."""
        if self.refused:
            return _dropped()
        self.status = message.get("status", _ACCEPTED)
        if type(self.session) is UnreadSession:
            if not self.entrance.eager:  # as in most requests
                self.started = True
                return self.send(message)
        elif self.status >= _ERROR or not is_settled(self.session, self.now):
            return self._commit_first(message)
        return self._leave(message)

    async def _commit_first(self, message: Message) -> None:
        await self._commit()
        await self._leave(message)

    def _leave(self, message: Message) -> Awaitable[None]:
        """Send it, with what the commit made of the cookie."""
        life = self._life()
        message = self._with_headers(message, life)
        life.late = True
        self.started = True
        return self.send(message)

    async def _commit(self) -> None:
        """Save; if the backend cannot, it is 503, and the app's response goes no further."""
        manager, session, life = self.entrance.manager, self.session, self.session.life
        self.now = manager.clock()
        opening = life.opening
        try:
            commit = self.entrance.performer.commit(session, self.now, failed=self.status >= _ERROR)
            await self._finish(commit)
        except (BackendError, SessionCapacityError) as problem:
            life.owed = None  # unconfirmed, the cookie of an early `save` could undo a login made meanwhile
            await self._refuse(503, problem=problem)
            raise
        except BaseException as problem:
            self.interrupted = not isinstance(problem, Exception)
            raise
        self._note_commit(opening)
        self._hold(session)

    def _finish(self, operation: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run it to its end although this request may be cancelled; at once where nothing suspends."""
        return operation if self.entrance.immediate else self.entrance.manager.finisher.finish(operation)

    def _with_headers(self, message: Message, life: Life) -> Message:
        cookie = self._set_cookie(life) if life.owed is not None or self.entrance.eager else None
        if cookie is None and not self.session.accessed:
            return message
        headers: Headers = list(message.get("headers") or ())
        if cookie is not None:
            self.entrance.budget.cookies += 1
            ours = self.entrance.codec.names_our_cookie
            headers = [pair for pair in headers if pair[0].lower() != b"set-cookie" or not ours(pair[1])]
            headers.append((b"set-cookie", cookie))
            forbid_storing(headers)
        vary_by_cookie(headers)
        return {**message, "headers": headers}

    def _set_cookie(self, life: Life) -> bytes | None:
        """The Set-Cookie this response owes, or None."""
        codec = self.entrance.codec
        owed, life.owed = life.owed, None
        if owed is None:
            return self._promise(life) if self.entrance.eager else None
        secure = self._is_secure()
        if not isinstance(owed, SetCookie):
            return codec.remove_cookie(secure=secure)
        max_age = self.entrance.manager.cookie.max_age
        if max_age is not None and max_age > 0:
            max_age = max(0, min(max_age, ceil(owed.deadline - self.now)))
        credential = Credential(owed.id, owed.secret, owed.generation)
        return codec.set_cookie(credential, max_age=max_age, secure=secure)

    def _life(self) -> Life:
        """Of the session, looked at or not."""
        return self._opened() if type(self.session) is UnreadSession else self.session.life

    def _promise(self, life: Life) -> bytes | None:
        """A cookie for a visitor who has none, under which the first write will create the session."""
        opening = life.opening
        if (
            not isinstance(opening, Fresh)
            or opening.promised is not None
            or life.degraded
            or life.ended_early
        ):
            return None  # the visitor has a cookie, or may have one
        if not self._is_navigation():
            return None
        id_, secret = self.entrance.manager.mint()
        credential = Credential(id_, secret, int(self.now * 1000))
        life.opening = Fresh(opening.ended_because, promised=(id_, secret, credential.generation))
        return self.entrance.codec.set_promise(credential, secure=self._is_secure())

    def _is_navigation(self) -> bool:
        scope = self.scope
        return scope["type"] == "http" and scope["method"] == "GET" and wants_html(scope["headers"])

    def _is_secure(self) -> bool:
        https = self.scope.get("scheme") in {"https", "wss"}
        if not https and not self.entrance.warned_of_http:
            self._warn_of_http()
        return self.entrance.codec.sends_secure(https)

    def _warn_of_http(self) -> None:
        host = host_of(self.scope["headers"])
        if not is_local(host) and self.entrance.manager.cookie.https_only is not False:
            self.entrance.warned_of_http = True
            remedy = "serve by https, or trust the proxy's X-Forwarded-Proto"
            self.entrance.warn("insecure_transport", {"host": host.decode("latin-1"), "remedy": remedy})

    # --- instead of the app's response ---

    async def _refuse(self, status: int, *, problem: Exception | None = None, **figures: object) -> None:
        """Answer 503 or 429 ourselves (a WebSocket: close 1013); the cookie stays as it is."""
        self.refused = True
        self.status = status
        if problem is None:
            self._report("request_refused", status=status, **figures)
        elif isinstance(problem, BackendError):
            self._note_failure("load" if type(self.session) is UnreadSession else "commit", problem)
        phrase = _PHRASES[status]
        if self.scope["type"] == "websocket":
            await self.send({"type": "websocket.close", "code": 1013, "reason": phrase.decode()})
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(phrase)),
            (b"retry-after", b"%d" % self.retry_after),
            (b"cache-control", b"no-store"),
        ]
        start: Message = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": phrase})

    # --- whether the backend is up ---

    def _note_failure(self, met: Met, problem: BackendError) -> None:
        manager = self.entrance.manager
        if self.entrance.outage.begin(met, manager.monotonic()):
            manager.reporter.emit(
                "backend_unavailable", None, None, manager.clock(), operation=met, exception=problem
            )

    def _note_success(self, met: Met) -> None:
        outage, manager = self.entrance.outage, self.entrance.manager
        if outage.failing is not None:
            down_for = outage.end(met, manager.monotonic())
            if down_for is not None:
                manager.reporter.emit("backend_recovered", None, None, manager.clock(), down_for=down_for)

    def _note_commit(self, before: Opening) -> None:
        """A commit that changed nothing asked nothing of the backend, so it tells nothing about it."""
        if self.entrance.outage.failing is not None and self.session.life.opening is not before:
            self._note_success("commit")

    # --- WebSockets ---

    async def _receive_socket(self) -> Message:
        if self.revoked:
            return {"type": "websocket.disconnect", "code": 1008}
        message = await self.receive()
        if message["type"] == "websocket.disconnect":
            self.disconnected = True
        return message

    async def _send_socket(self, message: Message) -> None:
        if self.revoked:
            raise ConnectionResetError("the session was ended, and this WebSocket with it")
        if message["type"] == "websocket.close":
            self.closed = True
        await self._send(message)

    @property
    def is_here(self) -> bool:
        """Whether this is a WebSocket of the event loop that runs now."""
        return self.home is not None and self.home.is_here

    async def revoke(self) -> None:
        """Close the WebSocket whose session was ended, in its own loop. An HTTP request is left to finish."""
        if self.home is not None:
            await self.home.run(self._revoke)

    async def _revoke(self) -> None:
        if self.status != _ACCEPTED or self.closed or self.disconnected:
            return
        self.closed = self.revoked = True
        with contextlib.suppress(Exception):  # whatever the server raises: the client closed it just now
            await self.send({"type": "websocket.close", "code": 1008, "reason": "session ended"})

    # --- events ---

    def _report_start(self) -> Literal[True]:
        self.began = self.entrance.manager.monotonic()
        self._report("request_started", active=len(self.entrance.manager.activity))
        return True

    def _report_finish(self) -> None:
        manager = self.entrance.manager
        duration = manager.monotonic() - self.began
        active = len(manager.activity)
        self._report("request_finished", status=self.status, duration=duration, active=active)

    def _report(self, name: str, **fields: object) -> None:
        manager, life, scope = self.entrance.manager, self.life, self.scope
        if type(self.session) is not UnreadSession:
            life = self.session.life
        who = _who(None if life is None else life.record)
        method = scope.get("method", "WEBSOCKET")
        manager.reporter.emit(name, *who, manager.clock(), method=method, path=self.path, **fields)


_NOT_RETRIEVED = "session_data_retrieval_failed"


def _who(record: Record | None) -> tuple[str | None, str | None]:
    return (None, None) if record is None else (record.id, record.user_id)


async def _gone() -> Message:
    """What is received after the end."""
    return {"type": "http.disconnect"}


async def _nowhere(_: Message) -> None:
    """Where a message goes after the end, as at a server whose client has gone."""


async def _dropped() -> None:
    """What becomes of a message after we answered instead of the app."""
