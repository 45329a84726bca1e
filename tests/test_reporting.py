"""The reporter: exact counts, callbacks that cannot harm, lines that cannot be forged."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest
import structlog
from structlog.testing import LogCapture, capture_logs

import session_middleware.logging as ready_logging
from session_middleware import reporting
from session_middleware.errors import ConfigurationError
from session_middleware.events import EVENTS, SessionEvent
from session_middleware.reporting import (
    Reporter,
    bind_request_context,
    loggable,
    unbind_request_context,
)

SUSPICIOUS = "session_suspicious_activity"
COMMON = {"session_id": "s", "user_id": "u", "timestamp": 5.0}


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    unbind_request_context()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=["the attribute", "the public calls"])
def either_way_to_ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "the public calls":
        monkeypatch.setattr(reporting, "_SETTINGS", reporting._find_settings(None))


def configure(level: int = 0, capture: LogCapture | None = None) -> LogCapture:
    capture = capture or LogCapture()
    structlog.configure(processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(level))
    return capture


def emit(reporter: Reporter, name: str = "session_created", at: float = 5.0, /, **fields: object) -> None:
    reporter.emit(name, "s", "u", at, **fields)


def heard_by(reporter: Reporter, event: str | None = None) -> list[SessionEvent]:
    events: list[SessionEvent] = []
    reporter.subscribe(event, events.append)
    return events


def explode(event: SessionEvent) -> None:
    raise RuntimeError("boom\n" + event.name)


# Every event, in both kinds of log


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_is_a_structlog_line_of_its_level_and_fields(name: str) -> None:
    fields = {field: f"<{field}>" for field in EVENTS[name].fields}
    capture = configure()
    emit(Reporter(), name, **fields)
    expected = {"event": name, "log_level": EVENTS[name].level, **COMMON, **fields}
    assert capture.entries == [expected]


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_is_a_logging_record_where_structlog_is_not_configured(
    name: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    fields = {field: f"<{field}>" for field in EVENTS[name].fields}
    reporter = Reporter()
    emit(reporter, name, **fields)
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("session_middleware", name)
    assert record.levelname == EVENTS[name].level.upper()
    plain = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    shown = {key: value for key, value in vars(record).items() if key not in plain}
    expected = {("name_" if key == "name" else key): value for key, value in fields.items()}
    assert shown == COMMON | expected
    assert reporter.log_failures == 0
    assert capsys.readouterr() == ("", "")


def test_unconfigured_and_without_handlers_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    root.handlers.clear()
    emit(Reporter(), "session_creation_failed", exception=ValueError("x"))
    assert capfd.readouterr() == ("", "")
    structlog.get_logger().warning("control")  # what it would look like
    assert "control" in capfd.readouterr().out


def test_a_line_shows_an_exception_as_text_and_the_event_has_the_object() -> None:
    capture, reporter, problem = configure(), Reporter(), ValueError("bad\nvalue")
    events = heard_by(reporter)
    emit(reporter, "session_creation_failed", exception=problem)
    assert capture.entries[0]["exception"] == "ValueError: bad\\nvalue"
    assert events[0].fields["exception"] is problem


def test_a_reporter_that_must_not_log_writes_nothing_and_still_tells() -> None:
    capture, reporter = configure(), Reporter(log=False)
    events = heard_by(reporter)
    emit(reporter)
    reporter.subscribe(None, explode)
    emit(reporter, "session_cycled")
    assert (capture.entries, len(events), reporter.counts.total()) == ([], 2, 2)


# Who wants an event


@pytest.mark.usefixtures("either_way_to_ask")
class TestWants:
    def test_a_new_set_up_of_structlog_counts_at_once(self) -> None:
        reporter = Reporter()
        configure(logging.INFO)
        assert [reporter.wants("session_renewed"), reporter.wants("session_created")] == [False, True]
        configure(logging.DEBUG)
        assert reporter.wants("session_renewed")
        configure(logging.ERROR)
        assert not reporter.wants("session_created")
        structlog.reset_defaults()
        assert not reporter.wants("session_renewed")

    def test_without_structlog_the_level_of_logging_counts(self, caplog: pytest.LogCaptureFixture) -> None:
        reporter = Reporter()
        caplog.set_level("INFO")
        assert [reporter.wants("session_renewed"), reporter.wants("session_created")] == [False, True]
        caplog.set_level("DEBUG")
        assert reporter.wants("session_renewed")

    @pytest.mark.parametrize(
        "wrapper", [structlog.stdlib.BoundLogger, structlog.make_filtering_bound_logger(0)]
    )
    def test_over_logging_its_level_counts(self, wrapper: type, caplog: pytest.LogCaptureFixture) -> None:
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
            wrapper_class=wrapper,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        reporter = Reporter()
        caplog.set_level("INFO")
        assert [reporter.wants("session_renewed"), reporter.wants("session_created")] == [False, True]

    def test_capture_logs_sees_what_the_level_of_logging_would_drop(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=True,
        )
        caplog.set_level("ERROR")
        reporter = Reporter()
        emit(reporter)
        with capture_logs() as lines:
            emit(reporter)
        emit(reporter)
        assert [line["event"] for line in lines] == ["session_created"]
        assert not caplog.records

    def test_a_subscriber_is_reason_enough(self) -> None:
        configure(logging.CRITICAL)
        reporter = Reporter()
        stop = reporter.subscribe("session_renewed", print)
        assert [reporter.wants("session_renewed"), reporter.wants("session_cycled")] == [True, False]
        stop()
        assert not reporter.wants("session_renewed")


def test_structlog_keeps_its_settings_where_the_cheap_way_looks() -> None:
    assert not isinstance(reporting._SETTINGS, reporting._PublicSettings)
    assert isinstance(reporting._find_settings(None), reporting._PublicSettings)


def test_an_unheard_event_makes_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def spy(name: str, *rest: object) -> SessionEvent:
        made.append(name)
        return SessionEvent(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(reporting, "SessionEvent", spy)
    configure(logging.WARNING)
    reporter = Reporter()
    heard_by(reporter, "session_cycled")
    emit(reporter, "session_created")
    assert (made, reporter.counts) == ([], {"session_created": 1})
    emit(reporter, "session_cycled")
    assert made == ["session_cycled"]


def test_a_subscriber_hears_what_the_log_level_hides() -> None:
    capture, reporter = configure(logging.WARNING), Reporter()
    events = heard_by(reporter, "session_renewed")
    emit(reporter, "session_renewed", expires_at=9.0)
    assert ([event.fields for event in events], capture.entries) == ([{"expires_at": 9.0}], [])


# Subscriptions


@pytest.mark.parametrize("all_of_them", [None, "*"])
def test_one_subscription_hears_everything(all_of_them: str | None) -> None:
    reporter = Reporter(manager="me")
    events = heard_by(reporter, all_of_them)
    for name in EVENTS:
        emit(reporter, name)
    assert [event.name for event in events] == list(EVENTS)
    assert {event.manager for event in events} == {"me"}


def test_ending_a_subscription_twice_does_nothing() -> None:
    reporter = Reporter()
    heard: list[SessionEvent] = []
    stop, _ = reporter.subscribe(None, heard.append), reporter.subscribe(None, heard.append)
    stop()
    stop()
    emit(reporter)
    assert len(heard) == 1


def test_an_unknown_name_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ConfigurationError, match="did you mean session_created"):
        Reporter().subscribe("session_craeted", print)
    with pytest.raises(ConfigurationError, match="keys of EVENTS"):
        Reporter().subscribe("zzz", print)
    with pytest.raises(ConfigurationError, match="session_created"):
        emit(Reporter(), "session_craeted")


async def coroutine_function(event: SessionEvent) -> None: ...


class AsyncCallable:
    async def __call__(self, event: SessionEvent) -> None: ...


@pytest.mark.parametrize(
    "callback", [coroutine_function, partial(coroutine_function), AsyncCallable(), "text"]
)
def test_a_callback_that_is_no_plain_call_is_refused(callback: object) -> None:
    with pytest.raises(ConfigurationError, match="function"):
        Reporter().subscribe(None, callback)  # type: ignore[arg-type]


def test_a_hidden_coroutine_is_a_failure_and_not_a_silent_nothing() -> None:
    reporter = Reporter()
    reporter.subscribe(None, lambda event: coroutine_function(event))  # noqa: PLW0108 - hides the colour
    emit(reporter)
    assert reporter.failures == 1


def test_a_callback_cannot_change_what_the_next_one_sees() -> None:
    reporter = Reporter()
    reporter.subscribe(None, lambda event: event.fields.update(a=2))  # type: ignore[attr-defined]
    events = heard_by(reporter)
    emit(reporter, a=1)
    assert (events[0].fields, reporter.failures) == ({"a": 1}, 1)


# Callbacks that misbehave


def test_a_raising_callback_is_counted_and_logged_once_and_harms_nobody() -> None:
    capture, reporter = configure(logging.ERROR), Reporter()
    reporter.subscribe(None, explode)
    events = heard_by(reporter)
    for _ in range(5):
        emit(reporter)
    assert (reporter.failures, len(events)) == (5, 5)
    [line] = capture.entries
    assert line["event"] == "session_callback_failed"
    assert (line["callback"], line["during"]) == ("explode", "session_created")
    assert line["exception"] == "RuntimeError: boom\\nsession_created"


def test_callbacks_that_cause_events_come_to_an_end() -> None:
    reporter = Reporter()
    heard = heard_by(reporter)
    reporter.subscribe(None, lambda _event: emit(reporter))
    for _ in range(2):
        emit(reporter)
    assert len(heard) == 2 * reporting.MAX_DEPTH
    assert reporter.counts == {"session_created": 2 * (reporting.MAX_DEPTH + 1)}
    assert (reporter.dropped, reporter.failures) == (2, 0)


def test_a_processor_that_causes_events_comes_to_an_end() -> None:
    reporter, lines = Reporter(), []

    def alert(_logger: object, _method: str, line: structlog.types.EventDict) -> structlog.types.EventDict:
        lines.append(line["event"])
        emit(reporter, "alert_raised")
        raise structlog.DropEvent

    structlog.configure(processors=[alert])
    emit(reporter)
    assert lines == ["session_created", "alert_raised", "alert_raised"]


def test_what_a_callback_started_is_not_held_to_its_event() -> None:
    reporter = Reporter()
    contexts: list[contextvars.Context] = []
    reporter.subscribe("session_created", lambda _event: contexts.append(contextvars.copy_context()))
    for _ in range(3 * reporting.MAX_DEPTH):
        (contexts[-1] if contexts else contextvars.copy_context()).run(emit, reporter)
    assert (len(contexts), reporter.dropped) == (3 * reporting.MAX_DEPTH, 0)


def test_what_runs_at_the_same_time_in_other_contexts_does_not_count_as_nested() -> None:
    reporter = Reporter()
    emit(reporter)
    others = [contextvars.copy_context() for _ in range(2 * reporting.MAX_DEPTH)]
    reporter.subscribe(None, lambda _event: others and others.pop().run(emit, reporter))
    emit(reporter)
    assert (others, reporter.dropped) == ([], 0)


def test_a_broken_log_set_up_does_not_reach_the_request(caplog: pytest.LogCaptureFixture) -> None:
    structlog.configure(processors=[])  # the last processor must render
    reporter = Reporter()
    events = heard_by(reporter)
    emit(reporter)
    emit(reporter)
    assert (len(events), reporter.log_failures) == (2, 2)
    assert [record.getMessage() for record in caplog.records] == ["session_log_failed"]


# Exact counts


@pytest.fixture
def restless_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: object, threads: int = 4) -> None:
    running = [threading.Thread(target=work) for _ in range(threads)]  # type: ignore[arg-type]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@pytest.mark.usefixtures("restless_threads")
def test_no_event_is_lost_or_counted_twice_between_threads() -> None:
    capture = configure(logging.WARNING)
    reporter = Reporter()

    def work() -> None:
        for number in range(2000):
            emit(reporter)
            emit(reporter, SUSPICIOUS, number / 500, activity_type="bad_signature")

    in_threads(work)
    reporter.flush(9.0)
    assert reporter.counts == {"session_created": 8000, SUSPICIOUS: 8000}
    assert reporter.suspicious == {"bad_signature": 8000}
    shown = sum(not line.get("summary") for line in capture.entries)
    assert shown + sum(line.get("suppressed", 0) for line in capture.entries) == 8000


@pytest.mark.usefixtures("restless_threads")
def test_the_thread_check_catches_a_count_that_is_not_exact() -> None:
    tally = {"n": 0}

    def pause() -> None:
        pass

    def work() -> None:
        for _ in range(20_000):
            seen = tally["n"]
            str(seen)
            pause()
            tally["n"] = seen + 1

    for _ in range(20):
        in_threads(work, 2)
        if tally["n"] % 40_000:
            return
    pytest.fail("this machine never switches threads")


# Floods


def flood(reporter: Reporter, number: int, at: float, kind: str = "bad_signature") -> None:
    for _ in range(number):
        emit(reporter, SUSPICIOUS, at, activity_type=kind, details=None)


def test_a_flood_costs_ten_lines_a_second_and_its_number_is_exact() -> None:
    capture, reporter = configure(), Reporter()
    events = heard_by(reporter)
    flood(reporter, 1000, at=100.0)
    assert [line.get("suppressed") for line in capture.entries] == [None] * 10
    flood(reporter, 1, at=100.99)
    assert len(capture.entries) == 10
    flood(reporter, 1, at=101.0)
    assert capture.entries[10]["suppressed"] == 991
    flood(reporter, 1, at=101.0)
    assert "suppressed" not in capture.entries[11]
    assert len(events) == reporter.suspicious["bad_signature"] == 1003


def test_in_no_second_are_there_more_than_ten_lines() -> None:
    capture, reporter = configure(), Reporter()
    for tick in range(3000):
        flood(reporter, 1, at=tick / 1000)
    times = [line["timestamp"] for line in capture.entries]
    assert all(late - early >= 1.0 for early, late in zip(times, times[10:], strict=False))
    assert len(times) == 30


def test_each_type_has_a_limit_of_its_own() -> None:
    capture, reporter = configure(), Reporter()
    flood(reporter, 50, at=1.0)
    flood(reporter, 3, at=1.0, kind="unknown_id")
    assert sum(line["activity_type"] == "unknown_id" for line in capture.entries) == 3


def test_what_is_still_held_back_is_summed_up_once() -> None:
    capture, reporter = configure(), Reporter()
    flood(reporter, 25, at=1.0)
    reporter.flush(60.0)
    reporter.flush(61.0)
    [summary] = capture.entries[10:]
    assert summary["log_level"] == "warning"
    assert (summary["activity_type"], summary["suppressed"], summary["summary"]) == (
        "bad_signature",
        15,
        True,
    )
    assert reporter.counts[SUSPICIOUS] == 25


def test_a_clock_set_back_does_not_silence_the_log() -> None:
    capture, reporter = configure(), Reporter()
    flood(reporter, 50, at=9000.0)
    flood(reporter, 5, at=8999.9)
    assert len(capture.entries) == 10
    flood(reporter, 1, at=10.0)
    assert capture.entries[-1]["suppressed"] == 45


def test_made_up_types_do_not_fill_the_memory() -> None:
    reporter = Reporter()
    for number in range(reporting.MAX_KINDS + 50):
        flood(reporter, 1, at=1.0, kind=f"kind {number}")
    assert reporter.suspicious["other"] == 50
    assert len(reporter.suspicious) == reporting.MAX_KINDS + 1


# Log injection

HOSTILE = [
    "\n",
    "\r\n",
    "\x1b]0;x\x07",
    "\x00",
    "\x7f",
    "\x85",
    "\x9b31m",
    "\u2028",
    "\u2029",
    "\u202e",
    "\ud800",
]
RENDERERS: dict[str, structlog.types.Processor] = {
    "json": structlog.processors.JSONRenderer(),
    "json in unicode": structlog.processors.JSONRenderer(ensure_ascii=False),
    "console": structlog.dev.ConsoleRenderer(colors=False),
    "key=value": structlog.processors.KeyValueRenderer(),
}


def rendered(renderer: str, log: object) -> str:
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, RENDERERS[renderer]],
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    log()  # type: ignore[operator]
    return stream.getvalue()


def is_one_clean_line(text: str) -> bool:
    return text.endswith("\n") and text[:-1].isprintable()


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("attack", HOSTILE, ids=ascii)
def test_hostile_text_stays_one_line_of_printable_text(renderer: str, attack: str) -> None:
    text = f"a{attack}session_created user_id=admin"
    deep = {text: [text, {"k": (text,)}, {text}]}

    def log() -> None:
        bind_request_context("s", text, text)
        Reporter().emit(SUSPICIOUS, text, text, 1.0, activity_type=text, details=deep)

    line = rendered(renderer, log)
    assert is_one_clean_line(line)
    assert "user_id=admin" in line


@pytest.mark.parametrize("attack", HOSTILE, ids=ascii)
def test_the_injection_check_catches_an_unescaped_text(attack: str) -> None:
    line = rendered("json in unicode", lambda: structlog.get_logger().info("a" + attack))
    raw = rendered("key=value", lambda: structlog.get_logger().info("x", **{"a" + attack: 1}))
    assert not is_one_clean_line(raw)
    assert line.endswith("\n")


def test_an_exception_text_cannot_forge_a_line_either() -> None:
    def log() -> None:
        emit(Reporter(), "session_creation_failed", exception=ValueError("x\nforged \x1b[31m"))

    assert is_one_clean_line(rendered("json", log))
    assert is_one_clean_line(rendered("key=value", log))


def test_long_texts_and_lists_are_cut() -> None:
    assert loggable("x" * 256) == "x" * 256
    assert loggable("x" * 10**6) == "x" * 255 + "…"
    assert len(str(loggable("\x00" * 300))) == 256
    assert loggable(range(1000))[-1] == "… 936 more"  # type: ignore[index]
    assert loggable(dict.fromkeys(range(66), 1))["…"] == "2 more"  # type: ignore[index]
    endless: list[object] = []
    endless.append(endless)
    assert len(json.dumps(loggable(endless))) < 300


# Context of the app's own lines


def context() -> dict[str, object]:
    return structlog.contextvars.get_contextvars()


def test_the_apps_own_line_carries_the_session_until_unbound() -> None:
    def log() -> None:
        bind_request_context("s", "u", None)
        structlog.get_logger().info("mine")
        unbind_request_context()
        structlog.get_logger().info("later")

    mine, later = map(json.loads, rendered("json", log).splitlines())
    assert (mine, later) == ({"event": "mine", "session_id": "s", "user_id": "u"}, {"event": "later"})


def test_a_login_during_the_request_changes_the_user() -> None:
    bind_request_context("s", None, "r")
    bind_request_context("s", "u", "r")
    assert context() == {"session_id": "s", "user_id": "u", "request_id": "r"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_binding_of_the_app_wins_and_stays(when: str) -> None:
    if when == "before":
        structlog.contextvars.bind_contextvars(session_id="app", request_id="app")
    bind_request_context("s", "u", "r")
    if when == "after":
        structlog.contextvars.bind_contextvars(session_id="app", request_id="app")
    bind_request_context("s", "u", "r")
    assert context() == {"session_id": "app", "user_id": "u", "request_id": "app"}
    unbind_request_context()
    assert context() == {"session_id": "app", "request_id": "app"}


def test_a_binding_of_the_app_stays_even_if_it_is_the_very_same_text() -> None:
    request_id = "r" * 30
    structlog.contextvars.bind_contextvars(request_id=request_id)
    bind_request_context("s", "u", request_id)
    bind_request_context("s", "u", request_id)
    unbind_request_context()
    assert context() == {"request_id": request_id}


def test_there_is_one_variable_per_key_whoever_binds_first() -> None:
    bind_request_context("s", "u", "r")
    structlog.contextvars.bind_contextvars(session_id="app")
    names = [variable.name for variable in contextvars.copy_context()]
    assert names.count("structlog_session_id") == 1


def test_a_request_that_was_never_unbound_does_not_leak_into_the_next() -> None:
    bind_request_context("first", "ann", "r1")
    bind_request_context("second", None, None)
    assert context() == {"session_id": "second"}


def test_a_handler_may_clear_the_context() -> None:
    bind_request_context("s", "u", None)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(user_id="app")
    unbind_request_context()
    assert context() == {"user_id": "app"}
    structlog.contextvars.clear_contextvars()
    bind_request_context("next", None, None)
    assert context() == {"session_id": "next"}


# The ready set-up


def test_the_ready_set_up_writes_json_for_events_structlog_and_logging() -> None:
    stream = io.StringIO()
    ready_logging.configure("info", stream)
    emit(Reporter(), "session_created", 0.5)
    emit(Reporter(), "session_renewed")
    structlog.get_logger().info("mine", a=1)
    logging.getLogger("other").warning("theirs %s", "\n", extra={"b": 2})
    event, mine, theirs = map(json.loads, stream.getvalue().splitlines())
    assert (event["event"], event["timestamp"]) == ("session_created", "1970-01-01T00:00:00.500000Z")
    assert (mine["event"], mine["level"], mine["a"], mine["timestamp"][-1]) == ("mine", "info", 1, "Z")
    assert (theirs["event"], theirs["level"], theirs["b"]) == ("theirs \n", "warning", 2)


def test_the_ready_set_up_shows_a_traceback_and_no_local_variables() -> None:
    stream = io.StringIO()
    ready_logging.configure(stream=stream)
    secret = "canary".upper()
    try:
        raise ValueError(len(secret))  # noqa: TRY301  (its line is what the traceback would show)
    except ValueError:
        structlog.get_logger().exception("mine")
        logging.getLogger("other").exception("theirs")
    mine, theirs = map(json.loads, stream.getvalue().splitlines())
    assert mine["exception"].endswith("ValueError: 6")
    assert theirs["exception"].endswith("ValueError: 6")
    assert "CANARY" not in stream.getvalue()


def test_the_ready_set_up_refuses_to_replace_one() -> None:
    first, second = io.StringIO(), io.StringIO()
    ready_logging.configure(stream=first)
    with pytest.raises(ConfigurationError, match="force=True"):
        ready_logging.configure(stream=second)
    ready_logging.configure(stream=second, force=True)
    logging.getLogger("other").warning("once")
    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)


def test_the_ready_set_up_refuses_an_unknown_level() -> None:
    with pytest.raises(ConfigurationError, match="LOUD"):
        ready_logging.configure("LOUD")
    assert not structlog.is_configured()
