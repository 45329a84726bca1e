"""What a `LineReader` makes of log lines, over as many calls as it gets."""

import pytest

from session_middleware.monitoring import LineReader, SessionMonitor
from session_middleware.testing import ManualClock

T = 1_760_054_400.0
CREATED = '{"event": "session_created", "session_id": "s", "timestamp": "2025-10-10T00:00:00Z"}'


def test_counts_add_up_over_calls_and_blank_lines_are_no_lines() -> None:
    reader = LineReader()
    assert [event.name for event in reader.events([CREATED, "\n", "", '{"event": "theirs"}'])] == [
        "session_created"
    ]
    assert list(reader.events([b"\xff", "[1]"])) == []
    assert reader.counts() == {"read": 4, "other": 1, "broken": 2}


def test_a_line_that_could_not_be_looked_at_is_read_and_broken() -> None:
    reader = LineReader()
    reader.skip()
    assert reader.counts() == {"read": 1, "other": 0, "broken": 1}


def test_an_event_without_a_time_has_that_of_the_newest_before_it() -> None:
    timeless = '{"event": "session_deleted"}'
    reader = LineReader(T - 5)
    assert [event.timestamp for event in reader.events([timeless, CREATED, timeless])] == [T - 5, T, T]


def test_a_time_of_no_era_moves_nothing() -> None:
    far = '{"event": "session_created", "timestamp": "9000-01-01T00:00:00Z"}'
    reader = LineReader()
    assert [event.timestamp for event in reader.events([far, CREATED, '{"event": "session_deleted"}'])][
        1:
    ] == [T, T]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, '"text"', "null", "1", "{"])
def test_what_is_no_object_is_broken_however_deep(line: str) -> None:
    reader = LineReader()
    assert list(reader.events([line])) == []
    assert reader.counts()["broken"] == 1


def test_a_monitor_reads_through_it_and_goes_on_from_its_own_newest_event() -> None:
    monitor = SessionMonitor(interval=None, clock=ManualClock(T + 99))
    monitor.feed([CREATED])
    monitor.feed(['{"event": "session_expired", "reason": "idle_timeout"}'])
    figures = monitor.get_session_statistics()
    assert (figures["since"], figures["until"]) == (T, T)
