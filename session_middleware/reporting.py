"""From a fact to whoever wants to know: counts, callbacks, log lines, and the context of the app's own lines.

Reading order: `Reporter.emit` is the path of every event, `_deliver` the part that costs something.
Below it: who is asked whether a level is on (`_is_on`), what a log line looks like (`_write`, `loggable`),
how a flood is thinned out (`_Limit`), and `bind_request_context` for the lines that the app writes itself.

Rules of this file:

- A count is exact; a log line may be left out; a callback sees every event.
- Nothing that a callback, a processor or a handler does reaches the request: errors are counted, recursion
  ends.
- structlog is never configured, and unconfigured structlog is never used: it would print to standard output.
- No lock is needed: `counts[name] += 1` and the bodies of `_Limit` have no call between reading and writing,
  and CPython with its global lock switches threads only at calls and at jumps backwards.

In log lines `timestamp` is the time of the fact in float seconds since the epoch. structlog's `TimeStamper`
writes its own time over it where an app uses one (`MaybeTimeStamper` keeps ours).
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from itertools import islice
from types import EllipsisType, MappingProxyType
from typing import Protocol, TypeAlias

import structlog

from session_middleware.errors import ConfigurationError
from session_middleware.events import EVENTS, SessionEvent

__all__ = ["Callback", "Reporter", "Tally", "bind_request_context", "loggable", "unbind_request_context"]

Callback: TypeAlias = Callable[[SessionEvent], object]
"""Called with one event, in the thread of the request. It should be quick; what it returns is ignored."""

_LOGGER = "session_middleware"
_NUMBERS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LEVELS = {name: _NUMBERS[kind.level] for name, kind in EVENTS.items()}
_SUSPICIOUS = "session_suspicious_activity"
_LIMITED = {_SUSPICIOUS: "activity_type", "session_data_retrieval_failed": "reason"}
"""Events that anybody can cause as often as he likes: their lines are limited, per value of this field."""

MAX_DEPTH = 3
"""An event that a callback emits may cause another one, and that one a third; then it is only counted."""

MAX_KINDS = 256
"""Activity types counted by name. Code chooses them, so more is a mistake: those are counted as `other`."""


# Reporter


class _Subscription:
    """One callback. `unsaid` holds an item until its first failure was logged."""

    __slots__ = ("callback", "unsaid")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.unsaid = [True]


class Tally(dict[str, int]):
    """How often, by name; zero for what never happened. Not a `Counter`: storing in one is slow."""

    __slots__ = ()

    def __missing__(self, key: str) -> int:
        return 0

    def total(self) -> int:
        """The sum over all names."""
        return sum(self.values())


class Reporter:
    """Where a manager's events go.

    `manager` is what callbacks find as `event.manager`. `log=False`: no lines; callbacks and counts stay.

    `counts` has the exact number of events by name, `suspicious` that of suspicious activities by type; read
    them, never write them. `failures` counts callbacks that raised, `log_failures` lines that the app's
    logging refused, `dropped` the events that were only counted because callbacks went on causing them.
    The first failure of a callback is the line `session_callback_failed`, the first refused line is
    `session_log_failed` (through `logging`); neither is an event.
    """

    def __init__(self, *, manager: object = None, log: bool = True) -> None:
        self.manager = manager
        self.counts = Tally()
        self.suspicious = Tally()
        self.failures = 0
        self.log_failures = 0
        self.dropped = 0
        self.log(on=log)
        self._log_unsaid = [True]
        self._limits: dict[tuple[str, str], _Limit] = {}
        self.attached: dict[object, tuple[Callable[[], None], ...]] = {}
        """The monitors of this manager, and what ends their subscriptions: kept here, they go with it."""
        # Dicts as ordered sets: each change is one atomic operation, also while another thread emits.
        self._heard: dict[str, dict[_Subscription, None]] = {name: {} for name in EVENTS}

    def log(self, *, on: bool) -> None:
        """Write log lines from now on, or no more."""
        self._is_on = _is_on if on else _never

    def subscribe(self, event: str | None, callback: Callback) -> Callable[[], None]:
        """Call `callback` with each event of this name; with every event for None or "*".

        You get the function that ends it; calling that twice is a no-op.
        """
        _check_callback(callback)
        names = tuple(EVENTS) if event is None or event == "*" else (_known(event),)
        subscription = _Subscription(callback)
        for name in names:
            self._heard[name][subscription] = None

        def unsubscribe() -> None:
            for name in names:
                self._heard[name].pop(subscription, None)

        return unsubscribe

    def wants(self, name: str) -> bool:
        """Whether anybody would see this event: ask before working out costly fields.

        Emit in any case, or the event is not counted.
        """
        return bool(self._heard[name]) or self._is_on(_LEVELS[name])

    def wants_any(self, names: tuple[str, ...]) -> bool:
        """`wants` for several names of one level, asked once."""
        heard = self._heard
        for name in names:
            if heard[name]:
                return True
        return self._is_on(_LEVELS[names[0]])

    def emit(
        self, name: str, session_id: str | None, user_id: str | None, timestamp: float, /, **fields: object
    ) -> None:
        """Count this event and tell whoever wants it. `timestamp` is in seconds since the epoch.

        Never raises for what listeners do; a name that is not in `EVENTS` is a `ConfigurationError`.
        """
        self.count(name)
        if name == _SUSPICIOUS:
            self._count_suspicious(fields)
        heard = self._heard[name]
        is_on = self._is_on(_LEVELS[name])
        if heard or is_on:
            facts = MappingProxyType(fields)
            event = SessionEvent(name, session_id, user_id, timestamp, facts, self.manager)
            self._deliver(event, heard, is_on=is_on)

    def count(self, name: str) -> None:
        """Count an event that nobody wants (see `wants`). Never for a suspicious one."""
        counts = self.counts
        if name not in counts:
            counts.setdefault(_known(name), 0)  # by `+=` two threads could both find it missing
        counts[name] += 1

    def flush(self, now: float) -> None:
        """Log what the flood limit still holds back: a line per type, `summary` True, with the exact number.

        The manager calls it with each cleanup and when it stops.
        """
        for (name, kind), limit in tuple(self._limits.items()):
            left_out = limit.take()
            if left_out:
                facts = {_LIMITED[name]: kind, "suppressed": left_out, "summary": True}
                if name == _SUSPICIOUS:
                    facts["details"] = None
                self._log_line(SessionEvent(name, None, None, now, facts))

    def _deliver(self, event: SessionEvent, heard: Mapping[_Subscription, None], *, is_on: bool) -> None:
        nesting = _enter()
        if nesting is None:
            self.dropped += 1
            return
        try:
            # The line comes first, so that an alert which a callback raises stands below its cause.
            if is_on:
                self._log_event(event)
            self._call(tuple(heard), event)
        finally:
            nesting[0] -= 1

    def _call(self, subscriptions: Sequence[_Subscription], event: SessionEvent) -> None:
        for subscription in subscriptions:
            try:
                result = subscription.callback(event)
                if result is not None:
                    _refuse_coroutine(result)
            except Exception as exception:  # noqa: BLE001 - whatever it is, it is not the request's business
                self._report_failure(subscription, event, exception)

    def _report_failure(self, subscription: _Subscription, event: SessionEvent, exception: Exception) -> None:
        self.failures += 1
        if self._is_on(logging.ERROR) and _is_first(subscription.unsaid):
            callback = _name_of(subscription.callback)
            line = {"callback": callback, "during": event.name, "exception": exception}
            self._guard("error", "session_callback_failed", line)

    def _count_suspicious(self, fields: Mapping[str, object]) -> None:
        kind, tally = _kind_of(fields), self.suspicious
        if kind not in tally:
            kind = kind if len(tally) < MAX_KINDS else "other"
            tally.setdefault(kind, 0)
        tally[kind] += 1

    def _log_event(self, event: SessionEvent) -> None:
        if event.name not in _LIMITED:
            self._log_line(event)
            return
        left_out = self._limit_of(event).admit(event.timestamp)
        if left_out is not None:
            self._log_line(event, {"suppressed": left_out} if left_out else {})

    def _limit_of(self, event: SessionEvent) -> _Limit:
        kind = _kind_of(event.fields, _LIMITED[event.name])
        if event.name == _SUSPICIOUS and kind not in self.suspicious:
            kind = "other"
        key = event.name, kind
        return self._limits.get(key) or self._limits.setdefault(key, _Limit())

    def _log_line(self, event: SessionEvent, extra: Mapping[str, object] = MappingProxyType({})) -> None:
        identity = {
            "session_id": event.session_id,
            "user_id": event.user_id,
            "timestamp": event.timestamp,
        }
        self._guard(EVENTS[event.name].level, event.name, {**identity, **event.fields, **extra})

    def _guard(self, level: str, name: str, line: Mapping[str, object]) -> None:
        try:
            _write(level, name, {key: loggable(value) for key, value in line.items()})
        except Exception as exception:  # noqa: BLE001 - a processor of the app may raise anything
            self.log_failures += 1
            if _is_first(self._log_unsaid):
                with contextlib.suppress(Exception):
                    _STDLIB.error("session_log_failed", extra={"exception": loggable(exception)})


def _is_first(unsaid: list[bool]) -> bool:
    try:
        return unsaid.pop()  # atomic: of several threads one gets the item
    except IndexError:
        return False


def _refuse_coroutine(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("the callback returned a coroutine, and nobody awaits it")


def _known(name: str) -> str:
    if name in EVENTS:
        return name
    near = difflib.get_close_matches(name, EVENTS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "the names are the keys of EVENTS"
    raise ConfigurationError(f"there is no event {loggable(name)!r}: {hint}")


def _check_callback(callback: Callback) -> None:
    if not callable(callback):
        raise ConfigurationError(
            f"a callback is called with the event, and {type(callback).__name__} cannot be: pass a function"
        )
    called = (callback, type(callback).__call__)  # the latter for an object with `async def __call__`
    if any(inspect.iscoroutinefunction(part) or inspect.isasyncgenfunction(part) for part in called):
        raise ConfigurationError(
            f"callbacks are plain calls, and {_name_of(callback)} is async: pass a plain function that puts "
            "the event into a queue for a task of yours"
        )


def _name_of(callback: object) -> str:
    return getattr(callback, "__qualname__", None) or type(callback).__qualname__


def _kind_of(fields: Mapping[str, object], field: str = _LIMITED[_SUSPICIOUS]) -> str:
    return str(loggable(str(fields.get(field, "unknown"))))


# How deep callbacks may cause events. The count is shared with what a callback starts (a task copies the
# context), and falls to zero when the outermost event is done: a task that lives on is not held to it.

_NESTING: ContextVar[list[int] | None] = ContextVar("session_middleware_nesting", default=None)


def _enter() -> list[int] | None:
    nesting = _NESTING.get()
    if nesting is None or nesting[0] == 0:
        nesting = [0]
        _NESTING.set(nesting)
    if nesting[0] >= MAX_DEPTH:
        return None
    nesting[0] += 1
    return nesting


# Is a level on? Asked for every event: it must cost next to nothing, and notice a new set-up of structlog at
# once.


class _Settings(Protocol):
    @property
    def is_configured(self) -> bool: ...
    @property
    def default_wrapper_class(self) -> object: ...
    @property
    def default_processors(self) -> object: ...
    @property
    def logger_factory(self) -> object: ...


class _PublicSettings:
    """The same by structlog's public calls, which build a dict each time."""

    @property
    def is_configured(self) -> bool:
        return structlog.is_configured()

    @property
    def default_wrapper_class(self) -> object:
        return structlog.get_config()["wrapper_class"]

    @property
    def default_processors(self) -> object:
        return structlog.get_config()["processors"]

    @property
    def logger_factory(self) -> object:
        return structlog.get_config()["logger_factory"]


def _find_settings(module: object) -> _Settings:
    # `get_config()` builds a dict, for several times the price of the attribute we need. The object behind
    # it is private; should it move or change, the public way gives the same answers.
    settings: _Settings | None = getattr(module, "_CONFIG", None)
    public = _PublicSettings()
    names = ("is_configured", "default_wrapper_class", "default_processors", "logger_factory")
    agrees = all(getattr(settings, name, names) == getattr(public, name) for name in names)
    return public if settings is None or not agrees else settings


_SETTINGS = _find_settings(getattr(structlog, "_config", None))
_STDLIB = logging.getLogger(_LOGGER)
_STDLIB.addHandler(logging.NullHandler())  # else `logging` prints warnings of apps that never asked for any
_THRESHOLDS: dict[object, int] = {
    structlog.make_filtering_bound_logger(number): number for number in (0, 10, 20, 30, 40, 50)
}


def _is_on(level: int) -> bool:
    settings = _SETTINGS
    if not settings.is_configured:
        return _STDLIB.isEnabledFor(level)
    return level >= _THRESHOLDS.get(settings.default_wrapper_class, 0) and _passes(level)


def _never(_level: int) -> bool:
    return False


def _passes(level: int) -> bool:
    # Over `logging`, the standard logger has the last word; but `capture_logs` catches what it would drop.
    # A wrapper or factory that structlog does not know may filter as it likes: it gets the line.
    if not isinstance(_SETTINGS.logger_factory, structlog.stdlib.LoggerFactory):
        return True
    return _STDLIB.isEnabledFor(level) or _is_captured(_SETTINGS.default_processors)


def _is_captured(processors: object) -> bool:
    return (
        isinstance(processors, list)
        and bool(processors)
        and isinstance(processors[-1], structlog.testing.LogCapture)
    )


# Log lines

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _write(level: str, name: str, line: dict[str, object]) -> None:
    if _SETTINGS.is_configured:
        # A fresh logger each time: it follows the set-up of this moment, whatever the app caches.
        getattr(structlog.get_logger(_LOGGER), level)(name, **line)
    else:
        # `logging` refuses fields named like its own (`name`): those get an underscore at their end.
        extra = {f"{key}_" if key in _RESERVED else key: value for key, value in line.items()}
        _STDLIB.log(_NUMBERS[level], name, extra=extra)


MAX_TEXT = 256
"""Characters of a text that a log line shows, escapes included."""

MAX_ITEMS = 64
"""Items of a list or mapping that a log line shows."""

_MAX_LEVELS = 4  # of lists in lists

# Everything that ends a line or talks to a terminal: C0, DEL and C1, the two Unicode line ends; and what
# breaks or disguises it: surrogates (no encoding takes them) and the bidirectional overrides.
_ESCAPES = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    **{code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    **{code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)},
    **{ord(short): escape for short, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))},
}


def loggable(value: object, levels: int = _MAX_LEVELS) -> object:
    """The value as a log line may show it: plain types, texts of 256 characters, control characters escaped.

    Backslashes are not doubled, so an escape in the log may also be one that was written so.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, BaseException):
        return _clean(f"{type(value).__name__}: {value}")
    if levels and isinstance(value, Mapping):
        shown = islice(value.items(), MAX_ITEMS)
        items = {_clean(str(key)): loggable(item, levels - 1) for key, item in shown}
        return items | _rest_of_mapping(value)
    if levels and isinstance(value, Sequence | AbstractSet) and not isinstance(value, bytes | bytearray):
        return [*(loggable(item, levels - 1) for item in islice(value, MAX_ITEMS)), *_rest_of_list(value)]
    return _clean(str(value))


def _rest_of_mapping(value: Mapping[object, object]) -> dict[str, object]:
    return {"…": f"{len(value) - MAX_ITEMS} more"} if len(value) > MAX_ITEMS else {}


def _rest_of_list(value: Sequence[object] | AbstractSet[object]) -> list[object]:
    return [f"… {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else []


def _clean(text: str) -> str:
    whole = text if len(text) <= MAX_TEXT else text[: MAX_TEXT + 1]
    if not whole.isprintable():
        whole = whole.translate(_ESCAPES)
    return whole if len(whole) <= MAX_TEXT else f"{whole[: MAX_TEXT - 1]}…"


# Floods

LINES_PER_SECOND = 10
"""Log lines of one suspicious activity type in any second of event time."""


class _Limit:
    """The times of the last ten lines of one type, as a ring, and how many were left out since the last."""

    __slots__ = ("at", "left_out", "times")

    def __init__(self) -> None:
        self.times = [float("-inf")] * LINES_PER_SECOND
        self.at = 0
        self.left_out = 0

    def admit(self, now: float) -> int | None:
        """How many lines were left out before this one; None: leave this one out, too.

        A clock that was set back by more than a second starts afresh; threads that come in the wrong order
        by less than that do not.
        """
        if -1.0 < now - self.times[self.at] < 1.0:
            self.left_out += 1
            return None
        self.times[self.at] = now
        self.at = (self.at + 1) % LINES_PER_SECOND
        left_out, self.left_out = self.left_out, 0
        return left_out

    def take(self) -> int:
        """How many lines were left out since the last one; from now on none."""
        left_out, self.left_out = self.left_out, 0
        return left_out


# The context of the app's own lines. structlog keeps one variable per key, and with two of one name it would
# be chance whose value is shown. So we set the very variables that `bind_contextvars` uses, and a binding of
# the app's is never touched. A handler may clear ours: nothing here relies on finding it again.

_Bound: TypeAlias = object | EllipsisType  # what structlog takes for "absent" is Ellipsis


def _variable(key: str) -> ContextVar[_Bound]:
    token = structlog.contextvars.bind_contextvars(**{key: ...})[key]
    variable: ContextVar[_Bound] = token.var
    variable.reset(token)
    return variable


_VARIABLES = (_variable("session_id"), _variable("user_id"), _variable("request_id"))
_NOTHING: Sequence[_Bound] = (..., ..., ...)
_OURS: ContextVar[Sequence[_Bound]] = ContextVar("session_middleware_bound", default=_NOTHING)


def bind_request_context(session_id: str | None, user_id: str | None, request_id: str | None) -> None:
    """Make the app's own structlog lines carry these (through its `merge_contextvars`), until unbound.

    None: the lines do not have that key. Where the app bound a key itself, its value stays. May be called
    again in one request, as after a login.
    """
    wanted = (
        ... if session_id is None else _clean(session_id),
        ... if user_id is None else _clean(user_id),
        ... if request_id is None else _clean(request_id),
    )
    first, second, third = _VARIABLES
    if first.get(...) is second.get(...) is third.get(...) is ...:  # as in nearly every request
        _OURS.set(wanted)
        first.set(wanted[0])
        second.set(wanted[1])
        third.set(wanted[2])
    else:
        _OURS.set(_bind_what_is_free(wanted))


def _bind_what_is_free(values: Sequence[_Bound]) -> Sequence[_Bound]:
    """What is ours afterwards, with Ellipsis where the app has a value."""
    bound: list[_Bound] = []
    for variable, value, ours in zip(_VARIABLES, values, _OURS.get(), strict=True):
        current, wanted = variable.get(...), value
        if current is not ours and current is not ...:
            wanted = ...  # the app's: it must not look like ours when we unbind, even if it is the same text
        elif current is not wanted:
            variable.set(wanted)
        bound.append(wanted)
    return bound


def unbind_request_context() -> None:
    """Take back what `bind_request_context` bound in this context, and nothing else."""
    ours = _OURS.get()
    _OURS.set(_NOTHING)
    for variable, mine in zip(_VARIABLES, ours, strict=True):
        if mine is not ... and variable.get(...) is mine:
            variable.set(...)
