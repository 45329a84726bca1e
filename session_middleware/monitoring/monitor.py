"""`SessionMonitor`: the hook that turns events into figures, health and alerts.

Reading order: the constructor, the ways in (`attach`, `processor`, `feed`, `record_*`, `log_*`), the ways out
(`get_*`, `export_metrics`), then `drain`, which every way out begins with.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import datetime
from threading import Lock, RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet, ref

import msgspec

from session_middleware.errors import ConfigurationError
from session_middleware.events import EVENTS
from session_middleware.monitoring.alerts import DEFAULTS, Alert, Change
from session_middleware.monitoring.analysis import DAY, Analysis
from session_middleware.monitoring.export import exported, row_of
from session_middleware.monitoring.exporters import Exporter
from session_middleware.monitoring.facts import (
    Measurement,
    SessionEvent,
    SessionMetric,
    event_of,
    is_moment,
    moment_of,
    number,
    seconds_of,
    text,
)
from session_middleware.monitoring.figures import Figures
from session_middleware.monitoring.health import health_report
from session_middleware.monitoring.lines import LineReader
from session_middleware.monitoring.recording import Inbox, Item, Ledger, Worker
from session_middleware.monitoring.store import FigureStore
from session_middleware.monitoring.suspicion import Finding

if TYPE_CHECKING:
    from session_middleware.manager import SessionManager

__all__ = ["SessionMonitor", "get_session_monitor"]

_QUIET: Final = frozenset(name for name, kind in EVENTS.items() if kind.level == "debug")
_FLUSH: Final = 5.0  # seconds between two writes to the store
_SET_BACK: Final = 60.0  # seconds by which a clock may go back unnoticed
_ROUNDS: Final = 3  # an alert is an event, which may raise another alert


class SessionMonitor:
    """Figures, health and alerts from the events of any number of managers, or of log lines.

    Args:
        store: `sqlite:///monitor.db` keeps the figures over restarts and adds up all workers that name the
            same file. None: they live as long as the process.
        retention_days: so many days have figures. None: 7, with a store 30.
        alerts: the rules. Default: the ready ones, `DEFAULTS`.
        queue_size: events that may wait to be counted; further ones are counted by name only. Default 10,000.
        metrics_kept: measurements that `export_metrics` can give without a store. Default 10,000.
        interval: seconds between two looks at the queue, by a thread that starts with the first event. None:
            no thread; only reading looks.
        clock: seconds since the epoch.
    """

    _worker: Worker | None = None
    _is_live = False
    _flushed = float("-inf")
    _seen = float("-inf")  # the clock, when it was looked at last

    def __init__(
        self,
        *,
        store: str | None = None,
        retention_days: int | None = None,
        alerts: Iterable[Alert] = DEFAULTS,
        queue_size: int = 10_000,
        metrics_kept: int = 10_000,
        interval: float | None = 0.25,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = None if store is None else FigureStore(store)
        self.retention_days = _retention(retention_days, store)
        self.clock = clock
        self.errors = self.refused = self.store_errors = 0
        self._rules = tuple(alerts)
        self._kept = _positive("metrics_kept", metrics_kept)
        self._interval = interval if interval is None else _positive("interval", interval)
        self._inbox = Inbox(int(_positive("queue_size", queue_size)))
        self._analysis = self._new_analysis()
        self._managers: WeakSet[SessionManager] = WeakSet()  # a monitor keeps no manager alive
        self._by_default: WeakSet[SessionManager] = WeakSet()  # those that nobody asked to have it attached
        self._overflow = Ledger(self._inbox.overflow)
        self._ledgers: list[tuple[ref[SessionManager], Ledger]] = []
        self._exporters: list[Exporter] = []
        self._callbacks: list[Callable[[Change | Finding], object]] = []
        self._lock = RLock()
        _MONITORS.add(self)

    # --- ways in ---

    def attach(self, manager: SessionManager, *, debug: bool = False) -> Self:
        """Take in this manager's events from now on; attaching it again is a no-op.

        `debug`: also those of level debug (several per request). Without, their totals come from the
        manager's own counts, and request durations are unknown.
        """
        from session_middleware.manager import SessionManager  # noqa: PLC0415  (reports of logs need none)

        if not isinstance(manager, SessionManager):
            raise ConfigurationError(f"attach: found {type(manager).__name__}, pass a SessionManager")
        for other in [one for one in manager.reporter.attached if one is not self]:
            if isinstance(other, SessionMonitor) and manager in other._by_default:  # noqa: SLF001  (our own class)
                other.detach(manager)  # somebody chose: of two monitors each would raise every alert
        if debug and manager in self._by_default:
            self.detach(manager)
        self._by_default.discard(manager)
        self._attach(manager, debug=debug)
        return self

    def attach_by_default(self, manager: SessionManager) -> None:
        """What the entrances do: take in this manager's events until another monitor is attached to it."""
        if not manager.reporter.attached:
            self._attach(manager, debug=False)
            self._by_default.add(manager)

    def detach(self, manager: SessionManager) -> None:
        """Take in no more of this manager; a no-op where it is not attached."""
        self.drain()
        with self._lock:
            self._managers.discard(manager)
            self._by_default.discard(manager)
            self._ledgers = [(owner, ledger) for owner, ledger in self._ledgers if owner() is not manager]
            for unsubscribe in manager.reporter.attached.pop(self, ()):
                unsubscribe()

    def processor(
        self, _logger: object, _method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A structlog processor that takes in our events and hands every line on as it is.

        A chain that filters, samples or caches starves it: `attach` sees everything. Never both, or each
        event counts twice.
        """
        try:
            name = event_dict.get("event")
            if isinstance(name, str) and name in EVENTS:
                self._put(name, dict(event_dict))
        except Exception:  # noqa: BLE001 - the line is the app's, and comes first
            self.errors += 1
        return event_dict

    def feed(self, lines: Iterable[str | bytes]) -> dict[str, int]:
        """Take in JSON log lines. You get how many were `read`, of which `other` loggers', and `broken`."""
        reader = LineReader(self._analysis.newest or 0.0)
        self.read(reader.events(lines))
        return reader.counts()

    def read(self, events: Iterable[SessionEvent]) -> None:
        """Take in events that somebody has kept, such as those of a `LineReader`, oldest first."""
        with self._lock:
            for event in events:
                self._count_event(event)
        self._look()

    def record_metric(
        self,
        metric_type: str,
        session_id: str | None,
        user_id: str | int | None,
        value: float,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Take in one measurement. A value that is no finite number is refused, and counted."""
        measured = number(value)
        if measured is None:
            self.refused += 1
            return
        kind, facts = str(text(metric_type)), MappingProxyType(dict(metadata or {}))
        who = (text(session_id), text(user_id))
        self._put(kind, SessionMetric(kind, *who, measured, self.clock(), facts))
        self._is_live = True

    def record_event(self, event: SessionEvent) -> None:
        """Take in one event, also one with a name of the app's own."""
        if not isinstance(event, SessionEvent):
            raise ConfigurationError(f"record_event: found {type(event).__name__}, pass a SessionEvent")
        self._take(event)
        self._is_live = True

    def log_system_startup(self) -> None:
        """Report that monitoring began."""
        store = None if self.store is None else self.store.path.name
        rules = [rule.name for rule in self._rules]
        self._report(
            "monitor_started", None, None, store=store, retention_days=self.retention_days, rules=rules
        )

    def log_session_created(
        self, session_id: str, user_id: str | int | None, platform_id: str | int | None = None
    ) -> None:
        """Report a session that the app created by itself."""
        self._report("session_created", session_id, user_id, **_known(platform_id=platform_id))

    def log_session_expired(self, session_id: str, user_id: str | int | None, reason: str) -> None:
        """Report a session that the app let expire by itself."""
        self._report("session_expired", session_id, user_id, reason=reason)

    def log_session_error(
        self, session_id: str | None, user_id: str | int | None, error_type: str, error_details: str
    ) -> None:
        """Report an error of the app's own. The details go to the log: no secrets in them."""
        self._report("session_error", session_id, user_id, error_type=error_type, details=error_details)

    def log_platform_switch(
        self,
        session_id: str,
        user_id: str | int | None,
        old_platform_id: str | int | None,
        new_platform_id: str | int,
        switch_duration: float,
    ) -> None:
        """Report that the session's platform changed; the duration is in seconds."""
        facts = {"old": old_platform_id, "new": new_platform_id, "duration": switch_duration}
        self._report("session_context_switched", session_id, user_id, name="platform", **facts)

    def log_suspicious_activity(
        self,
        session_id: str | None,
        user_id: str | int | None,
        activity_type: str,
        details: Mapping[str, object],
    ) -> None:
        """Report suspicious activity that the app found."""
        facts = {"activity_type": activity_type, "details": details}
        self._report("session_suspicious_activity", session_id, user_id, **facts)

    def add_alert(self, rule: Alert) -> None:
        """Follow this rule, too; it replaces one of the same name."""
        with self._lock:
            self._analysis.alerts.add(rule)
            self._rules = (*(known for known in self._rules if known.name != rule.name), rule)

    def remove_alert(self, name: str) -> None:
        """Follow this rule no more."""
        with self._lock:
            self._analysis.alerts.remove(name)
            self._rules = tuple(known for known in self._rules if known.name != name)

    def on_alert(self, callback: Callable[[Change | Finding], object]) -> None:
        """Call this with each alert that is raised or cleared, and each suspicious activity that is found.

        It is called in the monitor's thread, or that of a reader; what it raises is counted.
        """
        self._callbacks.append(callback)

    def export_to(self, exporter: Exporter) -> None:
        """Hand on to it what is taken in from now on, in the monitor's thread: figures for another system."""
        with self._lock:
            self._exporters.append(exporter)

    # --- ways out ---

    def get_session_statistics(self) -> dict[str, Any]:
        """Totals, rates, durations and tables, as JSON values; times are seconds, rates are per minute."""
        self.drain()
        with self._lock:
            figures = self._figures().statistics()
            return figures | {
                "active_requests": self._active_requests(),
                "rates": self._analysis.rates(self._now()),
                "findings": [finding._asdict() for finding in self._analysis.findings],
                "alerts": self._analysis.alerts.raised(),
                "monitor": self._own_figures(),
            }

    def get_session_health_report(self) -> dict[str, Any]:
        """`status` (`healthy`, `warning`, `critical`), `checks` with what to do, and the alerts that hold."""
        self.drain()
        with self._lock:
            now = self._now()
            return health_report(self._analysis.gauges(now), self._analysis.alerts.raised(), now)

    def export_metrics(
        self,
        start_time: datetime | float | None = None,
        end_time: datetime | float | None = None,
        format: str = "dicts",  # noqa: A002  (what everybody calls it)
    ) -> list[dict[str, Any]] | str:
        """The measurements of this time, oldest first, as `dicts`, or as a text: `jsonl`, `csv`.

        Both ends count; None is no end. Datetimes without a zone are local.
        """
        start, end = seconds_of("start_time", start_time), seconds_of("end_time", end_time)
        self.drain()
        with self._lock:
            return exported(self._rows(start, end), format)

    def cleanup_old_data(self, retention_days: int | None = None) -> int:
        """Forget what is older than so many days; 0 forgets all, None is the monitor's own retention.

        You get how many days and measurements went.
        """
        days = self.retention_days if retention_days is None else _whole("retention_days", retention_days)
        self.drain()
        with self._lock:
            self._flush()
            return self._drop(days)

    def close(self) -> None:
        """Take in what is queued, write it to the store, and end the thread; a new event starts it again."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()  # from one of its own callbacks, too
        self.drain()
        with self._lock:
            self._flush()

    # --- inside ---

    def drain(self) -> None:
        """Take in what is queued. Every read does it; only who times it calls it."""
        for _ in range(_ROUNDS):
            with self._lock:
                self._take_in()
                outbox, self._analysis.outbox = self._analysis.outbox, []
            for message in outbox:
                self._announce(message)
            if not outbox:
                break

    def _take(self, event: SessionEvent) -> None:
        inbox = self._inbox  # `_put` with its calls written out: this is what a request pays for
        if len(inbox.items) < inbox.size:
            inbox.items.append(event)
        else:
            inbox.count(event.name)
        if self._worker is None and self._interval is not None:
            self._start()

    def _attach(self, manager: SessionManager, *, debug: bool) -> None:
        with self._lock:
            if manager not in self._managers:
                names = [name for name in EVENTS if debug or name not in _QUIET]
                self._managers.add(manager)
                ends = tuple(manager.subscribe(name, self._take) for name in names)
                manager.reporter.attached[self] = ends
                if not debug:
                    self._ledgers.append((ref(manager), Ledger(manager.reporter.counts, _QUIET)))
        self._is_live = True

    def _active_requests(self) -> int | None:
        """None without a manager: nobody knows."""
        counted = [len(manager.active_requests()) for manager in self._managers]
        return sum(counted) if counted else None

    def _put(self, name: str, item: Item) -> None:
        self._inbox.put(name, item)
        if self._worker is None and self._interval is not None:
            self._start()

    def _start(self) -> None:
        with _STARTING:
            if self._worker is None and self._interval is not None:
                self._worker = Worker(self._look, self._interval)

    def _look(self) -> None:
        """What the thread does; nothing may end it."""
        try:
            self.drain()
            with self._lock:
                if abs(self.clock() - self._flushed) >= _FLUSH:  # it may have been set back
                    self._flush()
        except Exception:  # noqa: BLE001 - counted, and shown in the statistics
            self.errors += 1

    def _take_in(self) -> None:
        if self._is_live:
            self._note_time()
        for item in self._inbox.take_all():
            self._count_in(item)
        now = self._now()
        for name, more in self._overflow.growth().items():
            self._analysis.dropped += more
            self._count(name, now, more)
        gone = [entry for entry in self._ledgers if entry[0]() is None]  # before the last look at them
        for _, ledger in self._ledgers:
            for name, more in ledger.growth().items():
                self._count(name, now, more)
        self._ledgers = [entry for entry in self._ledgers if entry not in gone]
        if self._is_live:
            self._analysis.tick(now)
        if self._exporters:
            self._show_gauges(now)

    def _note_time(self) -> None:
        now, before = self.clock(), self._seen
        self._seen = now
        if now < before - _SET_BACK:
            self._analysis.begin_anew(now)

    def _count(self, name: str, now: float, more: int) -> None:
        self._analysis.count(name, now, more)
        self._export(lambda exporter: exporter.count(name, more))

    def _export(self, call: Callable[[Exporter], None]) -> None:
        for exporter in self._exporters:
            try:
                call(exporter)
            except Exception:  # noqa: BLE001 - one exporter must not hide it from the others
                self.errors += 1

    def _show_gauges(self, now: float) -> None:
        gauges = {**self._analysis.gauges(now), "requests_in_flight": self._active_requests()}
        live = self._analysis.live_sessions
        gauges["sessions"] = None if live is None else float(live)
        self._export(lambda exporter: exporter.look(gauges))

    def _count_in(self, item: Item) -> None:
        if isinstance(item, SessionEvent):
            self._count_event(item)
        elif isinstance(item, SessionMetric):
            self._analysis.measure(item)
            self._export(lambda exporter: exporter.measure(item))
        elif event := event_of(item, self.clock()):
            self._is_live = True
            self._count_event(event)

    def _count_event(self, event: SessionEvent) -> None:
        """One odd event must not hide the others."""
        try:
            if not is_moment(event.timestamp):
                self.refused += 1
                return
            self._analysis.take(event)
            if self._exporters:
                self._export(lambda exporter: exporter.take(event))
        except Exception:  # noqa: BLE001 - counted, and shown in the statistics
            self.errors += 1

    def _report(
        self, name: str, session_id: str | None, user_id: str | int | None, /, **fields: object
    ) -> None:
        who = (text(session_id), text(user_id))
        for manager in self._managers:
            manager.reporter.emit(name, *who, self.clock(), **fields)
            return
        self._is_live = True
        self._take(SessionEvent(name, *who, self.clock(), MappingProxyType(fields)))

    def _announce(self, message: Change | Finding) -> None:
        for callback in self._callbacks:
            try:
                callback(message)
            except Exception:  # noqa: BLE001 - one listener must not hide it from the others
                self.errors += 1
        for manager in tuple(self._managers)[:1]:
            _emit(manager, message)

    def _now(self) -> float:
        """The clock's time; for a monitor that only reads files, that of the newest line."""
        newest = self._analysis.newest
        return self.clock() if self._is_live or newest is None else newest

    def _figures(self) -> Figures:
        states: list[dict[str, Any]] = []
        if self.store is not None:
            self._flush()
            states = self._asked(self.store.states, [])
        return self._analysis.merged(states)

    def _rows(self, start: float | None, end: float | None) -> list[dict[str, Any]]:
        if self.store is not None:
            store = self.store
            self._flush()
            found: list[dict[str, Any]] = self._asked(lambda: store.rows(start, end), [])
            return found + self._within(self._analysis.fresh, start, end)
        return self._within(self._analysis.metrics, start, end)

    @staticmethod
    def _within(
        measurements: Iterable[Measurement], start: float | None, end: float | None
    ) -> list[dict[str, Any]]:
        low, high = float("-inf") if start is None else start, float("inf") if end is None else end
        chosen = [one for one in measurements if low <= moment_of(one) <= high]
        return [row_of(one) for one in sorted(chosen, key=moment_of)]

    def _flush(self) -> None:
        """Give the store what it does not have yet; what it does not take is kept for the next time."""
        self._flushed = self.clock()
        analysis, store = self._analysis, self.store
        if store is None or not (analysis.days or analysis.fresh):
            return
        rows = [row_of(one) for one in analysis.fresh]
        if self._asked(lambda: store.add(analysis.days, rows), False) is None:
            analysis.days = {}
            analysis.fresh.clear()
            self._expire(self.retention_days)

    def _expire(self, days: int) -> int:
        store, moment = self.store, self._now() - days * DAY
        if store is None:
            return 0
        return int(self._asked(lambda: store.drop_before(int(moment // DAY), moment), 0))

    def _asked(self, call: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return call()
        except (sqlite3.Error, OSError, msgspec.MsgspecError):
            self.store_errors += 1
            return otherwise

    def _drop(self, days: int) -> int:
        analysis, store, moment = self._analysis, self.store, self._now() - days * DAY
        before = len(analysis.days) + len(analysis.metrics)
        if not days:
            self._analysis = self._new_analysis()
            return before + (
                0 if store is None else self._asked(lambda: store.drop_before(_NEVER, _NEVER), 0)
            )
        analysis.days = {day: one for day, one in analysis.days.items() if day >= moment // DAY}
        kept = [one for one in analysis.metrics if moment_of(one) >= moment]
        analysis.metrics.clear()
        analysis.metrics.extend(kept)
        return before - len(analysis.days) - len(kept) + self._expire(days)

    def _new_analysis(self) -> Analysis:
        return Analysis(self._rules, self.retention_days, int(self._kept))

    def _own_figures(self) -> dict[str, int]:
        return {
            "dropped": self._analysis.dropped,
            "errors": self.errors,
            "refused": self.refused,
            "store_errors": self.store_errors,
        }

    def _after_fork(self) -> None:
        """In the child: what was queued or not yet stored is the parent's to count; locks are new."""
        self._lock = RLock()
        self._worker = None
        self._inbox.clear()
        if self.store is not None:
            self._analysis = self._new_analysis()


_NEVER: Final = 2**40  # later than every day and moment
_MONITORS: WeakSet[SessionMonitor] = WeakSet()
_STARTING = Lock()


def _renew_monitors() -> None:
    global _STARTING  # noqa: PLW0603  (a fork may have come while it was held)
    _STARTING = Lock()
    for monitor in tuple(_MONITORS):
        monitor._after_fork()  # noqa: SLF001  (its own module)


def _close_monitors() -> None:
    for monitor in tuple(_MONITORS):
        monitor.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_monitors)
atexit.register(_close_monitors)


def _emit(manager: SessionManager, message: Change | Finding) -> None:
    emit, now = manager.reporter.emit, message.timestamp
    if isinstance(message, Change):
        figures = {"rule": message.rule, "value": message.value, "threshold": message.threshold}
        emit(message.name, None, None, now, **figures)
        return
    facts = {"activity_type": message.activity_type, "details": message.details}
    emit("session_suspicious_activity", message.session_id, message.user_id, now, **facts)


def _known(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _positive(argument: str, value: float) -> float:
    found = number(value)
    if found is None or found <= 0:
        raise ConfigurationError(f"{argument}: found {value!r}, pass a number greater than 0")
    return found


def _whole(argument: str, value: int) -> int:
    if type(value) is not int or value < 0:
        raise ConfigurationError(f"{argument}: found {value!r}, pass a whole number of days, 0 or more")
    return value


def _retention(days: int | None, store: str | None) -> int:
    if days is None:
        return 7 if store is None else 30
    return int(_positive("retention_days", _whole("retention_days", days)))


_GLOBAL: list[SessionMonitor] = []


def get_session_monitor(*, store: str | None = None) -> SessionMonitor:
    """The one monitor of this process, made at the first call; *store* is for that call.

    Raises `ConfigurationError` where a later call names a store and the monitor has none or another.
    """
    with _STARTING:
        if not _GLOBAL:
            _GLOBAL.append(SessionMonitor(store=store))
    monitor = _GLOBAL[0]
    wanted = None if store is None else FigureStore(store).path
    if wanted is not None and (monitor.store is None or monitor.store.path != wanted):
        raise ConfigurationError("store: the process's monitor exists already, with another store or none")
    return monitor
