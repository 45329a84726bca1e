"""What is kept of one user: handed out, and erased."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from session_middleware import ConfigurationError
from tests.manager.damage import stored_text
from tests.test_manager import Driven


def test_an_export_holds_all_of_the_user_and_nothing_that_opens_a_session(driven: Driven) -> None:
    values = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "raw": b"\x00\xff",
        "pair": (1, 2),
        "id": UUID(int=7),
        "price": Decimal("1.20"),
        "cart": ["book", {"n": 1}],
    }
    old = driven.create_session(user_id=7, data={"n": 1}, priority=2)
    driven.clock.advance(5)
    new = driven.create_session(user_id="7", data=values, metadata={"client": {"network": "192.0.2.0/24"}})
    driven.create_session(user_id="bob")
    export = json.loads(json.dumps(driven.export_user(7)))
    assert (export["user_id"], export["exported_at"]) == ("7", driven.clock())
    assert [one["session_id"] for one in export["sessions"]] == [new.id, old.id]
    assert export["sessions"][0] == {
        "session_id": new.id,
        "created_at": driven.clock(),
        "authenticated_at": driven.clock(),
        "last_activity": driven.clock(),
        "expires_at": new.expires_at,
        "status": None,
        "priority": 0,
        "metadata": {"client": {"network": "192.0.2.0/24"}},
        "data": {
            "when": "2026-01-02T00:00:00Z",
            "raw": "AP8=",
            "pair": [1, 2],
            "id": "00000000-0000-0000-0000-000000000007",
            "price": "1.20",
            "cart": ["book", {"n": 1}],
        },
    }
    for session in (old, new):
        record = driven.record(session.id)
        assert record is not None
        assert record.secret not in json.dumps(export)


def test_text_that_is_safe_html_is_exported_as_text(driven: Driven) -> None:
    markupsafe = pytest.importorskip("markupsafe")
    driven.create_session(user_id="ada", data={"html": markupsafe.Markup("<b>")})
    [session] = driven.export_user("ada")["sessions"]
    assert json.loads(json.dumps(session["data"])) == {"html": "<b>"}


def test_of_somebody_unknown_there_is_nothing(driven: Driven) -> None:
    assert driven.export_user("nobody")["sessions"] == []
    assert driven.erase_user("nobody") == 0


def test_whoever_is_erased_leaves_nothing_behind(driven: Driven) -> None:
    canary = "canary-8Zq"
    expired = driven.create_session(user_id="ada", data={"note": canary})
    driven.clock.advance(20 * 24 * 3600)
    live = driven.create_session(user_id="ada", data={"note": canary}, metadata={"note": canary})
    other = driven.create_session(user_id="bob", data={"note": "bob's"})
    assert canary in stored_text(driven.manager.backend)
    assert driven.erase_user("ada") == 1
    assert driven.export_user("ada")["sessions"] == []
    assert driven.get_session(other.id)["note"] == "bob's"
    assert [event.session_id for event in driven.heard("session_deleted")] == [live.id]
    assert driven.why_ended(live.id).reason == "erased"
    assert [event.session_id for event in driven.heard("session_expired")] == [expired.id]
    assert canary not in stored_text(driven.manager.backend)


def test_a_user_is_named_by_text_or_an_integer(driven: Driven) -> None:
    for wrong in (None, True, 1.5, ""):
        with pytest.raises(ConfigurationError, match="user_id"):
            driven.export_user(wrong)
        with pytest.raises(ConfigurationError, match="user_id"):
            driven.erase_user(wrong)
