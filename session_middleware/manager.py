"""The one configured object: backend, policy, cookie settings, reporting. Apps and entrances talk to it.

Reading order: `SessionManager` (its options, its life), `Blocking` (the same for code without an event loop),
`initialize_session_manager` (one manager for the whole process).
"""

from __future__ import annotations

import os
import secrets
import time
from binascii import b2a_base64
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import fields
from datetime import timedelta
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, TypedDict, TypeVar, Unpack, get_args

from session_middleware.activity import ActiveRequest, Activity
from session_middleware.backends.base import Backend, Colour, wrong_colour
from session_middleware.backends.capabilities import Bounded, Capped, Caps, Counting
from session_middleware.backends.urls import backend_from
from session_middleware.blocking import run_blocking
from session_middleware.budget import Budget
from session_middleware.cleanup import Cleanup
from session_middleware.client import ClientFacts, client_facts_of
from session_middleware.configuration import Aliases, from_environment, from_mapping, options_of
from session_middleware.cookies import CookieCodec, CookieSettings
from session_middleware.core import Core, Lease
from session_middleware.errors import BackendClosed, ConfigurationError
from session_middleware.events import SessionEvent
from session_middleware.heartbeat import Heartbeat
from session_middleware.lifetime import Lifetime
from session_middleware.loops import Finisher, running_here, spawn
from session_middleware.old_cookies import OldCookie, readers_of
from session_middleware.operations import Operations
from session_middleware.perform import Performer
from session_middleware.policy import Duration, Policy, PolicyOptions, flag, seconds
from session_middleware.reconfiguration import Live, chosen
from session_middleware.record import SessionId
from session_middleware.reporting import Reporter
from session_middleware.session import Session

if TYPE_CHECKING:
    from session_middleware.rates import RateLimit

__all__ = [
    "Blocking",
    "CookieOptions",
    "ManagerOptions",
    "SessionManager",
    "get_session_manager",
    "initialize_session_manager",
]

T = TypeVar("T")

OnTooMany: TypeAlias = Literal["evict_oldest", "reject"]
_CAPS = {"max_sessions": "total", "max_sessions_per_user": "per_user"}
_COOKIE_OPTIONS = tuple(field.name for field in fields(CookieSettings))
_STRANGER = (
    600.0  # seconds for which an unknown cookie tells of another process rather than of an old session
)


class CookieOptions(TypedDict, total=False):
    """The options of `CookieSettings` as arguments."""

    session_cookie: str
    max_age: int | timedelta | None
    path: str
    same_site: Literal["lax", "strict", "none"]
    https_only: bool | None
    domain: str | None
    partitioned: bool


class ManagerOptions(PolicyOptions, total=False):
    """What an entrance hands on to the manager it makes: all but the backend, the key and the cookie."""

    fallback_keys: Sequence[object]
    import_from: OldCookie | Iterable[OldCookie]
    policy: Policy | None
    cleanup_interval: Duration
    backend_timeout: Duration
    check_interval: Duration
    stuck_after: Duration
    max_sessions: int | None
    max_sessions_per_user: int | None
    on_too_many: OnTooMany
    max_concurrent_requests: int | None
    max_requests_per_session: int | None
    rate_limit: str | None
    client_facts: bool | ClientFacts
    log: bool
    log_context: bool
    clock: Callable[[], float]
    monotonic: Callable[[], float]


class _OtherOptions(CookieOptions, PolicyOptions, total=False):
    """Those that `SessionManager` only hands on."""


class SessionManager(Operations):
    """Sessions over one backend.

    Args:
        backend: a backend object or a URL: `memory://` (default), `sqlite:///relative.db`, `postgresql://…`,
            `redis://…`.
        secret_key: signs the cookies: text, bytes or Starlette's `Secret`. Not needed without cookies.
        fallback_keys: former keys, newest first or in any order: still accepted, never used to sign.
        import_from: readers of another package's cookies (`StarletteCookie(key)`, `FlaskCookie(key)`), whose
            sessions are taken over at first sight. Default: none.
        policy: a `Policy`, such as `Policy.aal2()`; the options below override it one by one.
        cleanup_interval: seconds between two cleanups while started. Default 300.
        backend_timeout: seconds a request waits for the backend before it answers 503. Default 5. In threads,
            where no call can be cut short, it bounds what the backend's port waits for others.
        check_interval: seconds within which the WebSocket of a revoked session is closed. Default 30; at once
            where this process revoked it, and with Redis and PostgreSQL wherever that was.
        stuck_after: seconds without a sign of life after which a `processing` session is stuck. Default 1800.
        max_sessions: more sessions at once are not stored: those that expired go first, then those of the
            lowest priority, those of nobody, those seen longest ago; where none may go, 503. Default None: no
            limit.
        max_sessions_per_user: the same for the live sessions of one user. Default None: no limit.
        on_too_many: what one more login of a user does: "evict_oldest" (default) ends the session created
            first, "reject" refuses it (`SessionCapacityError`, 503).
        max_concurrent_requests: more requests at once in this process get 503. None: no limit.
        max_requests_per_session: more requests of one session at once get 429. None: no limit.
        rate_limit: more requests of one session than these get 429, counted in this process: "100/minute", or
            several ("5/second;100/minute"). Needs the extra `rate-limit`. Default None: no limit.
        client_facts: keep the client's network (an address cut to /24 or /48) and user agent in
            `metadata["client"]` when a request creates a session or signs in. False: nothing; or a function
            of the scope that answers what to keep. Default True.
        log: write events to the log. Default True.
        log_context: bind `session_id`, `user_id`, `request_id` for the app's structlog lines. Default True.
        clock: answers seconds since the epoch; for tests.
        options: those of `CookieSettings` (`max_age`, `path`, …) and of `Policy` (`idle_timeout`, …).

    Raises `ConfigurationError` naming the option.
    """

    def __init__(
        self,
        backend: Backend | str = "memory://",
        *,
        secret_key: object = None,
        fallback_keys: Sequence[object] = (),
        import_from: OldCookie | Iterable[OldCookie] = (),
        policy: Policy | None = None,
        cleanup_interval: Duration = 300.0,
        backend_timeout: Duration = 5.0,
        check_interval: Duration = 30.0,
        stuck_after: Duration = 1800.0,
        max_sessions: int | None = None,
        max_sessions_per_user: int | None = None,
        on_too_many: OnTooMany = "evict_oldest",
        max_concurrent_requests: int | None = None,
        max_requests_per_session: int | None = None,
        rate_limit: str | None = None,
        client_facts: bool | ClientFacts = True,
        log: bool = True,
        log_context: bool = True,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        **options: Unpack[_OtherOptions],
    ) -> None:
        named: dict[str, Any] = dict(options)
        self.cookie = CookieSettings(**{name: named.pop(name) for name in _COOKIE_OPTIONS if name in named})
        chosen = Policy.of(named, max_age=self.cookie.max_age, base=policy)
        self._codec = None if secret_key is None else CookieCodec(self.cookie, secret_key, fallback_keys)
        self.import_from = readers_of(import_from)
        """Readers of the cookies of another package, whose sessions are taken over at first sight."""
        self.backend_timeout = seconds("backend_timeout", backend_timeout)
        self.max_concurrent_requests = _limit("max_concurrent_requests", max_concurrent_requests)
        self.max_requests_per_session = _limit("max_requests_per_session", max_requests_per_session)
        self.rate_limit = _rate_limit(rate_limit, monotonic)
        self.client_facts = client_facts_of(client_facts)
        """What is kept of a client in `metadata["client"]`; None: nothing."""
        self.log_context = flag("log_context", log_context)
        self.reporter = Reporter(manager=self, log=flag("log", log))
        core = Core(
            backend_from(backend),
            chosen,
            _clock("clock", clock),
            _clock("monotonic", monotonic),
            self.reporter,
            self,
            running=running_here,
            stuck_after=seconds("stuck_after", stuck_after),
            is_cleaning=self._is_cleaning,
        )
        self._started_at = clock()
        self._told_of_strangers = False
        self._last_writes: dict[Colour, list[Callable[[], Awaitable[object]]]] = {"async": [], "blocking": []}
        super().__init__(core, self._performer_over(core, "async"))
        self._caps = Caps()
        for name, value in (("max_sessions", max_sessions), ("max_sessions_per_user", max_sessions_per_user)):
            self._set_cap(_CAPS[name], self._cap(name, value))
        self._set_cap("reject", _rejects("on_too_many", on_too_many))
        self.finisher = Finisher(self.backend_timeout)
        self.cleaner = Cleanup(core, self.cleanup_expired, seconds("cleanup_interval", cleanup_interval))
        self._check_interval = seconds("check_interval", check_interval)
        self.heartbeat = Heartbeat(core, self, self._check_interval, self._port)

    @classmethod
    def from_env(cls, prefix: str = "SESSION_", aliases: Aliases | None = None, **options: Any) -> Self:
        """A manager of environment variables: `SESSION_BACKEND`, `SESSION_IDLE_TIMEOUT`, … each option.

        `SESSION_TIMEOUT` is the idle timeout in seconds; *aliases* name others, with the unit of a duration:
        `{"APP_MINUTES": ("idle_timeout", "minutes")}`. Variables that name no option, and empty ones, are
        ignored. *options* go before the variables. Raises `ConfigurationError`, which quotes the variable
        and its text, but never that of a secret.
        """
        return from_environment(cls, os.environ, prefix, aliases, options)

    @classmethod
    def from_config(
        cls, mapping: Mapping[str, Any], *, aliases: Aliases | None = None, **options: Any
    ) -> Self:
        """A manager of a mapping by option, as a configuration file gives it; texts as by `from_env`.

        Raises `ConfigurationError`, also for a key that is no option.
        """
        return from_mapping(cls, mapping, aliases, options)

    def __repr__(self) -> str:
        return f"<SessionManager {self._core.backend.url}>"

    # --- what it is made of ---

    @property
    def policy(self) -> Policy:
        """How long sessions live."""
        return self._core.policy

    @property
    def backend(self) -> Backend:
        """Where records live."""
        return self._core.backend

    @property
    def codec(self) -> CookieCodec:
        """Signs and verifies cookies. Raises `ConfigurationError` if the manager has no key."""
        if self._codec is None:
            raise ConfigurationError(
                "secret_key: cookies must be signed; pass SessionManager(..., secret_key=...)"
            )
        return self._codec

    @property
    def performer(self) -> Performer:
        """Opens and commits the sessions of async requests."""
        return self._performer

    @property
    def mint(self) -> Callable[[], tuple[SessionId, str]]:
        """Makes a new id and secret, 128 random bits each."""
        return _mint

    @property
    def monotonic(self) -> Callable[[], float]:
        """Answers seconds that never jump."""
        return self._core.monotonic

    @property
    def clock(self) -> Callable[[], float]:
        """Answers seconds since the epoch."""
        return self._core.clock

    @property
    def activity(self) -> Activity:
        """The registry of requests in flight in this process."""
        return self._core.activity

    @property
    def budget(self) -> Budget:
        """What requests have cost so far, in writes and cookies; `get_metrics` shows it."""
        return self._core.budget

    @cached_property
    def blocking(self) -> Blocking:
        """Every operation as a plain call, for threads and scripts."""
        return Blocking(self, Operations(self._core, self.blocking_performer))

    @cached_property
    def blocking_performer(self) -> Performer:
        """Opens and commits the sessions of requests without an event loop; `run_blocking` drives it."""
        return self._performer_over(self._core, "blocking")

    @property
    def uses_blocking_port(self) -> bool:
        """Whether somebody has asked for the blocking performer."""
        return "blocking_performer" in self.__dict__

    @cached_property
    def blocking_heartbeat(self) -> Heartbeat:
        """Renews what such requests hold; whoever has a thread for it runs its rounds."""
        operations = Operations(self._core, self.blocking_performer)
        return Heartbeat(self._core, operations, self._check_interval, self.blocking_performer.port)

    @cached_property
    def blocking_cleaner(self) -> Cleanup:
        """The runs of the periodic cleanup, for the same thread."""
        operations = Operations(self._core, self.blocking_performer)
        return Cleanup(self._core, operations.cleanup_expired, self.cleaner.interval)

    @cached_property
    def lifetime(self) -> Lifetime:
        """From `start` to `stop`, with an event loop."""
        return Lifetime(
            self._core,
            self._port,
            began=self._begin,
            ends=self._end,
            drained=self._drain,
            closed=self._mark_closed,
        )

    @cached_property
    def blocking_lifetime(self) -> Lifetime:
        """The same under `manager.blocking`, where a cleanup is for the entrance's thread to begin."""
        life = Lifetime(
            self._core,
            self.blocking_performer.port,
            began=self._announce,
            ends=_nothing,
            drained=partial(self._write_last, "blocking"),
            closed=self._mark_closed,
        )
        life.is_closed = self.lifetime.is_closed
        return life

    @property
    def is_started(self) -> bool:
        """Between `start` and `stop`, with an event loop."""
        return self.lifetime.is_started

    # --- its life ---

    async def start(self) -> None:
        """Open the backend and begin the periodic cleanup. Started twice, it must be stopped twice."""
        await self.lifetime.start()

    async def stop(self, timeout: float = 30.0) -> bool:  # noqa: ASYNC109  (its own drain, not a cancellation)
        """End the cleanup, let requests in flight finish for up to *timeout* seconds, close the backend.

        True if all of them did; those still open are reported.
        """
        return await self.lifetime.stop(timeout)

    async def open(self) -> None:
        """Open the backend, and nothing else. A no-op when it is open; the first use does it anyway."""
        await self.lifetime.open()

    @asynccontextmanager
    async def track_request(self, session: str | Session, path: str = "") -> AsyncIterator[Session]:
        """As `Operations.track_request`; renewed while it is held, however long that takes."""
        async with super().track_request(session, path) as held:
            self.heartbeat.ensure()
            self.heartbeat.hurry()
            yield held

    async def save(self, session: Session) -> bool:
        """As `Operations.save`; once begun it is finished, although the request be cancelled.

        Raises `BackendUnavailable` when the backend takes longer than `backend_timeout`.
        """
        return await self._whole(super().save(session))

    async def reconfigure(self, **options: Any) -> None:
        """Change options while it runs; all of them or none. What is not given stays, as does what is None.

        Everything but the backend, the keys, the cookie and the clocks. Requests under way end as they began;
        smaller limits refuse from the next request on. A shorter `idle_timeout` or `absolute_timeout` holds
        for existing sessions when this returns, in every process: the idle one from the last moment the
        visitor may have been there, and not where `set_expiry` gave a session its own. Longer ones begin with
        each session's next renewal, or login.

        Raises `ConfigurationError`, naming the option; `BackendError`, and then the options stay as they
        were (some sessions may be shortened already: call it again).
        """
        await self._reconfigured(self, options)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- plain calls ---

    def subscribe(self, event: str | None, callback: Callable[[SessionEvent], object]) -> Callable[[], None]:
        """Call *callback* with each event of this name (None: of every name); the answer unsubscribes it.

        Callbacks are plain calls on the request's path; one that raises is counted and harms nothing.
        """
        return self.reporter.subscribe(event, callback)

    def active_requests(self, session_id: str | None = None) -> list[ActiveRequest]:
        """The requests of this process that hold a session now, or that hold this one."""
        if session_id is None:
            return list(self._core.activity)
        return self._core.activity.holding(SessionId(session_id))

    def get_metrics(self) -> dict[str, Any]:
        """Figures of this process since it began.

        `active_sessions` is exact on memory, elsewhere as fresh as the last cleanup (None before the first).
        """
        counts = self.reporter.counts
        return {
            "active_sessions": self._live_sessions(),
            "active_requests": len(self._core.activity),
            "total_sessions_created": counts["session_created"],
            "total_sessions_expired": counts["session_expired"],
            "total_sessions_deleted": counts["session_deleted"],
            "total_sessions_cleaned": self._core.cleaned,
            "session_timeout_minutes": self.policy.idle_timeout / 60,
            "max_concurrent_requests": self.max_concurrent_requests,
            "events": dict(counts),
            "suspicious": dict(self.reporter.suspicious),
            "callback_failures": self.reporter.failures,
            **self._core.budget.figures(),
        }

    def before_close(self, write: Callable[[], Awaitable[object]], *, colour: Colour = "async") -> None:
        """Await *write* in each `stop` (or `blocking.stop`) when the requests are done, before all closes.

        What it raises comes out of `stop`, after everything was closed.
        """
        self._last_writes[colour].append(write)

    def before_open(
        self, write: Callable[[SessionId], Awaitable[object]], *, colour: Colour = "async"
    ) -> None:
        """Await *write* with the id of each session that a request of this colour is about to open.

        Its `BackendError` is the request's: 503. Over a backend that answers at once it must not suspend.
        """
        performer = self._performer if colour == "async" else self.blocking_performer
        performer.before_open.append(write)

    # --- inside ---

    async def _drain(self) -> None:
        try:
            await self._write_last("async")
        finally:
            await self.finisher.drain()

    async def _write_last(self, colour: Colour) -> None:
        for write in self._last_writes[colour]:
            await write()

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        return await (work if self._port.immediate else self.finisher.finish(work))

    async def _reconfigured(self, operations: Operations, options: Mapping[str, Any]) -> None:
        live, before = self._live(), self._core.policy
        choice = chosen(live, options_of(SessionManager), before, options)
        self._core.policy = choice.policy
        try:
            await operations.enforce_timeouts(before, choice.policy)
        except BaseException:
            if self._core.policy is choice.policy:  # nobody has changed it again
                self._core.policy = before
            raise
        for name, value in choice.others.items():
            live[name].apply(value)
        await operations.enforce_limits()

    def _live(self) -> dict[str, Live]:
        """The options besides the policy's that may change: how each is checked, and how it is set."""
        return {
            "cleanup_interval": Live(seconds, self._set_cleanup_interval),
            "backend_timeout": Live(seconds, self._set_backend_timeout),
            "check_interval": Live(seconds, self._set_check_interval),
            "stuck_after": Live(seconds, partial(setattr, self._core, "stuck_after")),
            "max_concurrent_requests": Live(_limit, partial(setattr, self, "max_concurrent_requests")),
            "max_requests_per_session": Live(_limit, partial(setattr, self, "max_requests_per_session")),
            **{name: Live(self._cap, partial(self._set_cap, field)) for name, field in _CAPS.items()},
            "on_too_many": Live(_rejects, partial(self._set_cap, "reject")),
            "rate_limit": Live(self._rate, partial(setattr, self, "rate_limit")),
            "client_facts": Live(lambda _, option: client_facts_of(option), self._set_client_facts),
            "log": Live(flag, lambda on: self.reporter.log(on=on)),
            "log_context": Live(flag, partial(setattr, self, "log_context")),
        }

    def _rate(self, _: str, text: str | None) -> RateLimit | None:
        return _rate_limit(text, self._core.monotonic)

    def _set_client_facts(self, facts: ClientFacts | None) -> None:
        self.client_facts = facts

    def _set_cleanup_interval(self, interval: float) -> None:
        self.cleaner.change_interval(interval)
        if "blocking_cleaner" in self.__dict__:
            self.blocking_cleaner.change_interval(interval)

    def _set_backend_timeout(self, timeout: float) -> None:
        self.backend_timeout = self.finisher.timeout = timeout
        performers = [self._performer, *([self.blocking_performer] if self.uses_blocking_port else [])]
        for performer in performers:
            if isinstance(performer.port, Bounded):
                performer.port.bound(timeout)

    def _set_check_interval(self, interval: float) -> None:
        self._check_interval = self.heartbeat.interval = interval
        self.heartbeat.hurry()
        if "blocking_heartbeat" in self.__dict__:
            self.blocking_heartbeat.interval = interval

    def _keep(self, lease: Lease) -> Callable[[], None]:
        return spawn(partial(self._keep_on, lease))

    def _live_sessions(self) -> int | None:
        if self._port.immediate and isinstance(self._port, Counting):
            with suppress(BackendClosed):  # after `stop`: as the last cleanup found
                return run_blocking(self._port.usage(self._core.clock())).sessions
        return self._core.live_sessions

    def _performer_over(self, core: Core, colour: Colour) -> Performer:
        if colour not in core.backend.colours:
            if colour == "blocking":
                raise wrong_colour(core.backend, colour)
            colour = "blocking"  # refused by the entrances that cannot use it
        port = core.backend.port(colour)
        if colour == "blocking" and isinstance(port, Bounded):
            port.bound(self.backend_timeout)
        return Performer(
            port,
            lambda: core.policy,
            core.reporter,
            _mint,
            manager=self,
            cookie_ages=self.cookie.max_age is not None,
            unknown=self._meet_stranger,
            caps=self._caps_now,
            budget=core.budget,
        )

    def _cap(self, name: str, value: int | None) -> int | None:
        if value is not None and not isinstance(self._performer.port, Capped):
            raise ConfigurationError(
                f"{name}: {self.backend.url} cannot limit sessions; use a backend that can"
            )
        return _limit(name, value)

    def _set_cap(self, field: str, value: Any) -> None:
        caps = self._caps = self._caps._replace(**{field: value})
        self._core.caps = None if (caps.total, caps.per_user) == (None, None) else caps

    def _caps_now(self) -> Caps | None:
        caps = self._core.caps
        if caps is None or caps.total is None:
            return caps
        held = [request.session_id for request in self.activity]  # one that leaves now has none any more
        return caps._replace(held=[id_ for id_ in held if id_ is not None])

    def _meet_stranger(self, generation: int, now: float) -> None:
        """A signed cookie that a memory backend does not know, yet made since this process began."""
        made = generation / 1000
        if (
            self._told_of_strangers
            or not self._port.immediate
            or made < self._started_at
            or now - made > _STRANGER
        ):
            return
        self._told_of_strangers = True
        remedy = ConfigurationError(
            "another process serves this app too, and memory is not shared between them: sessions get lost; "
            'pass backend="sqlite:///sessions.db"'
        )
        self.reporter.emit("backend_unavailable", None, None, now, operation="load", exception=remedy)

    def _is_cleaning(self) -> bool:
        return self.cleaner.is_active or (
            "blocking_cleaner" in self.__dict__ and self.blocking_cleaner.is_active
        )

    def _begin(self) -> None:
        self.cleaner.start()
        self._announce()

    def _end(self) -> None:
        self.cleaner.stop()
        self.heartbeat.relax()

    def _mark_closed(self) -> None:
        """In both colours: they may share what was closed."""
        self.lifetime.is_closed = True
        if "blocking_lifetime" in self.__dict__:
            self.blocking_lifetime.is_closed = True

    def _announce(self) -> None:
        self.reporter.emit(
            "session_manager_initialized",
            None,
            None,
            self._core.clock(),
            backend=self.backend.url,
            timeout=self.policy.idle_timeout,
            cleanup_interval=self.cleaner.interval,
        )


class Blocking:
    """`manager.blocking`: the manager's operations as plain calls, over the backend's blocking port.

    `manager.blocking.get_session(id)`, `with manager.blocking.track_request(id) as session: …`,
    `with manager.blocking.transaction(id) as session: …`
    """

    def __init__(self, manager: SessionManager, operations: Operations) -> None:
        self._manager = manager
        self._operations = operations

    @property
    def manager(self) -> SessionManager:
        """Whose operations these are."""
        return self._manager

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operation = getattr(self._operations, name)
        return lambda *args, **kwargs: run_blocking(operation(*args, **kwargs))

    def track_request(self, session: str | Session, path: str = "") -> AbstractContextManager[Session]:
        """As `SessionManager.track_request`, but nothing renews the session while the body runs."""
        return _plainly(self._operations.track_request(session, path))

    def transaction(
        self, session_id: str, *, timeout: Duration = 10.0, lease: Duration = 30.0
    ) -> AbstractContextManager[Session]:
        """As `SessionManager.transaction`, but nothing renews the lease: the body must be done by then."""
        return _plainly(self._operations.transaction(session_id, timeout=timeout, lease=lease))

    def reconfigure(self, **options: Any) -> None:
        """As `SessionManager.reconfigure`."""
        run_blocking(self._manager._reconfigured(self._operations, options))  # noqa: SLF001  (of this file)

    def start(self) -> None:
        """As `SessionManager.start`, for the backend's blocking port; but no cleanup begins."""
        run_blocking(self._manager.blocking_lifetime.start())

    def stop(self, timeout: float = 30.0) -> bool:
        """As `SessionManager.stop`, for the blocking port."""
        return run_blocking(self._manager.blocking_lifetime.stop(timeout))

    def open(self) -> None:
        """Open the blocking port, and nothing else. A no-op when it is open."""
        run_blocking(self._manager.blocking_lifetime.open())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        self.stop()
        return False


@contextmanager
def _plainly(held: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """The same for code without an event loop: entered and left by `run_blocking`."""
    opened = run_blocking(_awaited(held.__aenter__))
    try:
        yield opened
    except BaseException as problem:
        leave = partial(held.__aexit__, type(problem), problem, problem.__traceback__)
        if not run_blocking(_awaited(leave)):
            raise
    else:
        run_blocking(_awaited(partial(held.__aexit__, None, None, None)))


def _nothing() -> None:
    """Stands for what only an event loop has."""


async def _awaited(call: Callable[[], Any]) -> Any:
    return await call()


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _mint() -> tuple[SessionId, str]:
    random = secrets.token_bytes(32)  # both at once: each request for chance is a system call
    id_, secret = _urlsafe(random[:16]), _urlsafe(random[16:])
    return _mint() if id_.startswith("-") else (SessionId(id_), secret)  # "-": an option on a command line


def _urlsafe(random: bytes) -> str:
    """As `secrets.token_urlsafe`, of 16 bytes."""
    return b2a_base64(random).translate(_URL_SAFE)[:22].decode("ascii")


def _clock(name: str, clock: Callable[[], float]) -> Callable[[], float]:
    if not callable(clock):
        raise ConfigurationError(
            f"{name}: found {type(clock).__name__}, pass a function that answers seconds"
        )
    return clock


def _rejects(name: str, value: object) -> bool:
    if value not in get_args(OnTooMany):
        raise ConfigurationError(f'{name}: found {value!r}, pass "evict_oldest" or "reject"')
    return value == "reject"


def _rate_limit(text: str | None, monotonic: Callable[[], float]) -> RateLimit | None:
    if text is None:
        return None
    try:
        from session_middleware.rates import RateLimit  # noqa: PLC0415  (optional)
    except ImportError as problem:
        raise ConfigurationError(
            'rate_limit: it needs another package: pip install "session_middleware[rate-limit]"'
        ) from problem
    return RateLimit(text, monotonic)


def _limit(name: str, value: int | None) -> int | None:
    if value is None or (type(value) is int and value > 0):
        return value
    raise ConfigurationError(f"{name}: found {value!r}, pass an integer over 0, or None for no limit")


_process_wide: list[SessionManager] = []


def initialize_session_manager(
    session_timeout_minutes: float = 60,
    cleanup_interval_seconds: float = 300,
    max_concurrent_requests: int | None = 100,
    **options: Any,
) -> SessionManager:
    """Make the one manager of this process, which `get_session_manager()` answers from then on."""
    manager = SessionManager(
        idle_timeout=session_timeout_minutes * 60,
        cleanup_interval=cleanup_interval_seconds,
        max_concurrent_requests=max_concurrent_requests,
        **options,
    )
    _process_wide[:] = [manager]
    return manager


def get_session_manager() -> SessionManager:
    """The manager that `initialize_session_manager` made. Raises `ConfigurationError` before that."""
    if not _process_wide:
        raise ConfigurationError(
            "there is no process-wide manager: call initialize_session_manager(...) first"
        )
    return _process_wide[0]
