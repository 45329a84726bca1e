"""The code samples of the Streamlit document that need no Streamlit, with their import line changed."""

from session_middleware import initialize_session_manager
from session_middleware.state import SessionPersistenceEngine, UserSession


def test_user_session() -> None:
    session = UserSession(user_id="user123")

    # Navigation
    session.navigate_to("profile", {"id": "123"})
    session.go_back()

    # Forms
    session.update_form_data("form1", "field", "value")
    session.mark_form_saved("form1")

    # Snapshots
    snapshot = session.create_form_snapshot("form1", "Before changes")
    session.restore_form_snapshot(snapshot.snapshot_id)

    # Permissions
    session.add_role("admin")
    session.add_permission("write")
    assert session.has_permission("write")

    # Cache
    session.add_cache_key("user_data_123")
    session.invalidate_cache_keys("user_data")
    assert session.cache.keys == []


def test_form_snapshots() -> None:
    session = UserSession(user_id="user123")
    session.update_form_data("form1", "field", "old_value")
    snapshot = session.create_form_snapshot("form1", "Before major changes")
    session.update_form_data("form1", "field", "new_value")
    session.restore_form_snapshot(snapshot.snapshot_id)
    assert session.get_form_state("form1").data["field"] == "old_value"
    assert "form1" in session.dirty_forms


def test_form_validation() -> None:
    session = UserSession(user_id="user123")
    form_state = session.get_form_state("contact_form")
    form_state.errors["email"] = ["Invalid email format"]
    form_state.warnings["phone"] = ["Phone number not verified"]
    shown = [f"{field}: {', '.join(errors)}" for field, errors in form_state.errors.items()]
    assert shown == ["email: Invalid email format"]


def test_cache_keys_with_dependencies() -> None:
    session = UserSession(user_id="user123")
    session.add_cache_key("user_data_123")
    session.add_cache_key("profile_123", dependencies={"user_data_123"})
    assert session.invalidate_cache_keys("user_data") == ["profile_123", "user_data_123"]


def test_roles_and_permissions() -> None:
    session = UserSession(user_id="user123")
    session.add_role("user")
    session.add_role("admin")
    assert session.has_role("admin")
    session.remove_role("admin")
    assert not session.has_role("admin")
    session.add_permission("delete")
    assert session.has_permission("delete")
    session.remove_permission("delete")
    assert not session.has_permission("delete")


def test_the_engine_is_configured() -> None:
    initialize_session_manager(log=False)
    engine = SessionPersistenceEngine(
        debounce_delay=2.0,  # 2 seconds
        session_timeout=86400,  # 24 hours
    )
    assert engine.pending == 0
