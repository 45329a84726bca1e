"""The vocabulary: pinned names, and facts that stay as they were said."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from session_middleware.events import EVENTS, SessionEvent, events_table

EVENT = SessionEvent("session_created", "s", None, 5.0, {"a": 1}, manager=object())

PINNED = {
    "debug": "session_renewed session_data_retrieved session_data_saved session_progress request_started "
    "request_finished",
    "info": "session_manager_initialized session_manager_stopped session_created session_deleted "
    "sessions_ended session_expired session_cycled session_user_bound session_user_unbound "
    "session_status_changed session_context_switched session_evicted session_conflict "
    "sessions_cleaned_up session_usage backend_recovered monitor_started "
    "alert_cleared",
    "warning": "session_renewal_failed session_deletion_failed session_data_retrieval_failed "
    "session_data_save_failed session_suspicious_activity request_refused alert_raised",
    "error": "session_creation_failed sessions_cleanup_failed backend_unavailable session_error",
}


@pytest.mark.parametrize("level", PINNED)
def test_names_and_levels_are_those_that_log_searches_rely_on(level: str) -> None:
    assert {e.name for e in EVENTS.values() if e.level == level} == set(PINNED[level].split())


def test_the_table_of_the_docs_has_one_line_per_event() -> None:
    lines = events_table().splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == list(EVENTS)
    assert all(line.count("|") == 5 for line in lines)


def test_every_event_says_what_it_means_and_repeats_no_common_field() -> None:
    for event in EVENTS.values():
        assert event.meaning.endswith(".")
        assert len(set(event.fields)) == len(event.fields)
        assert not {"session_id", "user_id", "timestamp", "event", "level"} & set(event.fields)


def test_one_field_alone_has_a_name_that_logging_refuses() -> None:
    refused = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    assert {f for e in EVENTS.values() for f in e.fields if f in refused} == {"name"}


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        EVENT.name = "x"  # type: ignore[misc]


def test_the_sender_is_neither_compared_nor_shown() -> None:
    assert replace(EVENT, manager=None) == EVENT
    assert not replace(EVENT, manager=None) != EVENT  # noqa: SIM202  (both operators are asked)
    assert replace(EVENT, name="x") != EVENT
    assert "manager" not in repr(EVENT)
    assert "timestamp=5.0" in repr(EVENT)


def test_an_event_can_be_kept_in_a_set() -> None:
    assert len({EVENT, EVENT}) == 1
