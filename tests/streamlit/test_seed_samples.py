"""Every code sample of the Streamlit document runs in a script, with at most its import line changed.

`core` and its modules became `session_middleware.streamlit` and `session_middleware.state`. Names that a
sample takes for granted (`form_data`, `delete_item`) are given before it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.streamlit.harness import Browser, Run, Server

IMPORTS = "from session_middleware.streamlit import *\nfrom session_middleware.state import *\n"


class Sample(NamedTuple):
    """*code* after *given* and its own runs before; then *shows* is what these expressions are."""

    code: str
    shows: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    given: str = ""


BOOTSTRAP = Sample(
    """
import streamlit as st
from session_middleware.streamlit import bootstrap_session

# Initialize or recover session
session = bootstrap_session()

st.write(f"Session ID: {session.session_id}")
st.write(f"Current Page: {session.current_page}")
""",
    {"session.session_id is not None": True, "session.current_page": None},
)

SAMPLES = {
    "bootstrap": BOOTSTRAP,
    "user_session": Sample(
        """
from session_middleware.state import UserSession

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
""",
        {"session.user_id": "user123", "session.cache.keys": []},
    ),
    "form_state": Sample(
        """
form_state = session.get_form_state("contact_form")

# Access data
name = form_state.data.get("name")

# Check if dirty
if form_state.is_dirty:
    st.warning("Unsaved changes!")

# Check errors
if form_state.errors:
    for field, errors in form_state.errors.items():
        st.error(f"{field}: {', '.join(errors)}")
""",
        {"name": "Ada"},
        'session = bootstrap_session()\nsession.update_form_data("contact_form", "name", "Ada")\n'
        'session.get_form_state("contact_form").errors["email"] = ["missing"]',
    ),
    "automatic_persistence": Sample(
        """
from session_middleware.streamlit import persist_input

# This triggers debounced persistence
persist_input("field", "value", form_id="form1")
""",
        {'dict(get_current_session().get_form_state("form1").data)': {"field": "value"}},
    ),
    "immediate_persistence": Sample(
        """
from session_middleware.streamlit import save_form

# Immediate write (no debouncing)
save_form("important_form", data, immediate=True)
""",
        {
            "get_session_manager().manager.blocking.get_session(str(get_current_session().session_id))"
            '["state:form:important_form"]["data"]': {"name": "Ada"}
        },
        'data = {"name": "Ada"}',
    ),
    "manual_persistence": Sample(
        """
from session_middleware.streamlit import persist_session

session = get_current_session()
persist_session(session, immediate=True)
""",
        {"get_session_manager().manager.blocking.get_session(session.session_id)['a']": [1, 2]},
        'get_current_session().values["a"] = [1]\nget_current_session().values["a"].append(2)',
    ),
    "automatic_recovery": Sample(
        """
# If session_id exists in cookie/URL, it's automatically recovered
session = bootstrap_session(session_id=request_session_id)
""",
        {"session.session_id == request_session_id": True},
        "request_session_id = get_current_session().session_id",
    ),
    "manual_recovery": Sample(
        """
from session_middleware.streamlit import recover_session

session = recover_session("session-id-here")
if session:
    st.write("Session recovered!")
else:
    st.write("Session not found or expired")
""",
        {"session": None},
    ),
    "recover_user_sessions": Sample(
        """
from session_middleware.streamlit import get_persistence_engine

engine = get_persistence_engine()
sessions = engine.recover_user_sessions("user123")

st.write(f"Found {len(sessions)} sessions for user")
""",
        {"len(sessions)": 1, "sessions[0].user_id": "user123"},
        "blocking = get_session_manager().manager.blocking\n"
        'blocking.delete_user_sessions("user123")\nblocking.create_session("user123")',
    ),
    "navigate": Sample(
        """
manager = get_session_manager()

# Simple navigation
manager.navigate_to("settings")

# With parameters
manager.navigate_to("profile", {"user_id": "123", "tab": "edit"})
""",
        {"[e.page for e in get_current_session().navigation_history]": ["settings", "profile"]},
    ),
    "navigation_history": Sample(
        """
session = get_current_session()

# View history
for entry in session.navigation_history:
    st.write(f"{entry.page} at {entry.timestamp}")

# Go back
if manager.go_back():
    st.rerun()
""",
        {"get_current_session().current_page": "first"},
        "manager = get_session_manager()\n"
        "if not get_current_session().navigation_history:\n"
        '    manager.navigate_to("first")\n    manager.navigate_to("second")',
    ),
    "update_form_data": Sample(
        """
session = get_current_session()

# Update individual field
session.update_form_data("contact_form", "name", "John")

# Check if dirty
if "contact_form" in session.dirty_forms:
    st.warning("Unsaved changes!")
""",
        {"session.dirty_forms": ["contact_form"]},
    ),
    "form_snapshots": Sample(
        """
session = get_current_session()

# Create snapshot
snapshot = session.create_form_snapshot("form1", "Before major changes")

# Make changes
session.update_form_data("form1", "field", "new_value")

# Undo by restoring snapshot
session.restore_form_snapshot(snapshot.snapshot_id)
""",
        {'dict(session.get_form_state("form1").data)': {"field": "old_value"}},
        'get_current_session().update_form_data("form1", "field", "old_value")',
    ),
    "form_validation": Sample(
        """
form_state = session.get_form_state("contact_form")

# Add errors
form_state.errors["email"] = ["Invalid email format"]
form_state.warnings["phone"] = ["Phone number not verified"]

# Display errors
if form_state.errors:
    for field, errors in form_state.errors.items():
        for error in errors:
            st.error(f"{field}: {error}")
""",
        {"dict(form_state.errors)": {"email": ["Invalid email format"]}},
        "session = bootstrap_session()",
    ),
    "track_cache_keys": Sample(
        """
session = get_current_session()

# Add cache key
session.add_cache_key("user_data_123")

# Add with dependencies
session.add_cache_key("profile_123", dependencies={"user_data_123"})
""",
        {"session.cache.keys": ["profile_123", "user_data_123"]},
    ),
    "invalidate_cache": Sample(
        """
manager = get_session_manager()

# Invalidate by pattern
manager.invalidate_cache("user_data")

# Invalidate all
manager.invalidate_cache()
""",
        {"get_current_session().cache.keys": []},
        'get_current_session().add_cache_key("user_data_123")\nget_current_session().add_cache_key("x")',
    ),
    "roles": Sample(
        """
session = get_current_session()

# Add roles
session.add_role("user")
session.add_role("admin")

# Check roles
if session.has_role("admin"):
    st.write("Admin panel")

# Remove role
session.remove_role("admin")
""",
        {"sorted(session.roles)": ["user"]},
    ),
    "permissions": Sample(
        """
session = get_current_session()

# Add permissions
session.add_permission("read")
session.add_permission("write")
session.add_permission("delete")

# Check permissions
if session.has_permission("delete"):
    if st.button("Delete"):
        delete_item()

# Remove permission
session.remove_permission("delete")
""",
        {"sorted(session.permissions)": ["read", "write"]},
        "def delete_item(): ...",
    ),
    "metrics": Sample(
        """
session = get_current_session()

# View metrics
st.write(f"Page views: {session.metrics.page_views}")
st.write(f"Interactions: {session.metrics.interaction_count}")
st.write(f"Session duration: {session.metrics.session_duration}")
st.write(f"Last activity: {session.metrics.last_activity}")
""",
        {"session.metrics.page_views": 1},
        'get_session_manager().navigate_to("here")',
    ),
    "automatic_cleanup": Sample(
        """
from session_middleware.streamlit import get_persistence_engine

engine = get_persistence_engine()

# Cleanup expired sessions
count = engine.cleanup_expired_sessions()
st.write(f"Cleaned up {count} expired sessions")

# Cleanup inactive sessions (7 days)
count = engine.cleanup_inactive_sessions(inactive_days=7)
st.write(f"Cleaned up {count} inactive sessions")
""",
        {"count": 0},
    ),
    "debounce_delay": Sample(
        """
from session_middleware.state import SessionPersistenceEngine

engine = SessionPersistenceEngine(
    debounce_delay=2.0,  # 2 seconds
    session_timeout=86400  # 24 hours
)
""",
        {"engine.debounce_delay": 2.0},
        "import session_middleware\nsession_middleware.initialize_session_manager(log=False)",
    ),
    "best_practices": Sample(
        """
session = bootstrap_session()

def on_change():
    persist_input("field", st.session_state.field, form_id="form1")

if st.button("Save"):
    save_form("form1", form_data)

session.create_form_snapshot("form1", "Before bulk edit")

if session.has_permission("delete"):
    # Allow delete
    ...

# Run as scheduled job
engine.cleanup_expired_sessions()
""",
        {"len(session.get_form_state('form1').snapshots)": 1},
        "engine, form_data = get_persistence_engine(), {}",
    ),
    "not_persisting": Sample(
        """
from session_middleware.streamlit import get_db_manager

db = get_db_manager()
if db.health_check():
    st.success("Database OK")
else:
    st.error("Database connection failed")
""",
        {"db.health_check()": True},
    ),
    "not_recovering": Sample(
        """
from session_middleware.streamlit import recover_session

session = recover_session(session_id)
if session is None:
    st.warning("Session expired or not found")
""",
        {"session.session_id == session_id": True},
        "session_id = bootstrap_session().session_id",
    ),
    "debouncing_issues": Sample(
        """
from session_middleware.streamlit import get_persistence_engine

engine = get_persistence_engine()
engine.flush_all()  # Force immediate write
""",
        {"engine.pending": 0},
        'persist_input("field", "value")',
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_runs(browser: Browser, name: str) -> None:
    sample = SAMPLES[name]
    shown = "".join(f"\nshow({expression})" for expression in sample.shows)
    run = browser.open().run(f"{IMPORTS}{sample.given}\n{sample.code}{shown}")
    assert run.values == list(sample.shows.values())


LIVE = "get_current_session().session_id"
CLEANUP = """
manager = get_session_manager()
manager.cleanup_session()
"""


def test_a_manual_cleanup_ends_the_session(browser: Browser) -> None:
    """The end closes the WebSocket, maybe before what the script shows has come; so it is asked later."""
    tab = browser.open()
    given = f'{IMPORTS}get_session_manager().navigate_to("here")\n'
    [ended] = tab.run(f"{given}show({LIVE})").values
    tab.ask(IMPORTS + CLEANUP)
    assert tab.closed_with() == 1008
    assert tab.connect().value("get_current_session()") is None
    assert browser.open().value(LIVE) != ended


NAME = """
from session_middleware.streamlit import persist_input

def on_name_change():
    persist_input("name", st.session_state.name, form_id="user_form")

st.text_input("Name", key="name", on_change=on_name_change)
"""
SAVE = """
from session_middleware.streamlit import save_form

if st.button("Save"):
    form_data = {
        "name": st.session_state.name,
        "email": st.session_state.email,
        "phone": st.session_state.phone,
    }
    save_form("contact_form", form_data)
    st.success("Form saved!")
"""
MOVE = """
from session_middleware.streamlit import get_session_manager

manager = get_session_manager()

if st.button("Go to Profile"):
    manager.navigate_to("profile", {"user_id": "123"})
    st.rerun()

if st.button("Go Back"):
    if manager.go_back():
        st.rerun()
"""


def data_of(run: Callable[[str], Run], form_id: str) -> Any:
    return run(f'show(dict(get_current_session().get_form_state("{form_id}").data))').values[-1]


def test_an_input_with_a_callback_is_persisted(browser: Browser) -> None:
    tab = browser.open()
    tab.run(NAME)
    tab.run(Name="Ada")
    assert data_of(browser.open().run, "user_form") == {"name": "Ada"}


def test_a_whole_form_is_saved_by_its_button(browser: Browser) -> None:
    widgets = "".join(f'st.text_input("{name}", key="{name}")\n' for name in ("name", "email", "phone"))
    tab = browser.open()
    tab.run(widgets + SAVE)
    tab.run(name="Ada", email="ada@example.org", phone="1")
    assert data_of(browser.open().run, "contact_form") == {}
    assert tab.run(press="Save").warnings == ["Form saved!"]
    saved = {"name": "Ada", "email": "ada@example.org", "phone": "1"}
    assert data_of(browser.open().run, "contact_form") == saved


def test_buttons_go_to_a_page_and_back(browser: Browser) -> None:
    page = "show(get_current_session().current_page)\n"
    tab = browser.open()
    assert tab.run(page + 'get_session_manager().navigate_to("home")' + MOVE).values == [None]
    assert tab.run(page + MOVE, press="Go to Profile").values == ["profile"]
    assert tab.run(press="Go Back").values == ["home"]
    assert browser.open().value("get_current_session().current_page") == "home"


def test_a_session_that_was_recovered_is_the_one_before_the_refresh(browser: Browser, server: Server) -> None:
    ids = {browser.open().run(f"{BOOTSTRAP.code}\nshow(session.session_id)").values[-1] for _ in range(2)}
    assert len(ids) == 1
