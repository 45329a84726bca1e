"""What a visitor does survives refresh, new tab, reconnect and restart; and nobody sees another's."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from session_middleware.cookies import CookieCodec, CookieSettings, Credential
from session_middleware.record import SessionId
from tests.streamlit.harness import ROOT, Browser, Server, Tab, served

NewBrowser = Callable[[Server], Browser]

FORM = """
session = bootstrap_session(debounce_delay=600)
if session is None:
    show(None)
else:
    form = session.get_form_state("contact")
    name = st.text_input("Name", form.data.get("name", ""), key="name")
    persist_input("name", name, form_id="contact")
    show(dict(form.data))
"""
DATA = 'get_current_session() and dict(get_current_session().get_form_state("contact").data)'
ID = "get_current_session() and get_current_session().session_id"


def typed(browser: Browser, text: str = "Ada") -> Tab:
    tab = browser.open()
    tab.run(FORM)
    assert tab.run(Name=text).values == [{"name": text}]
    return tab


# What survives


def test_a_reload_before_the_debounce_finds_what_was_typed(browser: Browser) -> None:
    tab = typed(browser)
    assert tab.value("get_persistence_engine().pending") == 0  # the first write makes the session
    tab.run(FORM, Name="Grace")
    reloaded = browser.open()
    assert reloaded.run(FORM).shown == {"Name": "Grace"}
    assert reloaded.value(DATA) == {"name": "Grace"}


def test_what_was_typed_really_waits(browser: Browser) -> None:
    typed(browser)
    browser.tabs[-1].run(FORM, Name="Grace")
    own = "str(get_current_session().session_id)"
    stored = f"dict(get_session_manager().manager.blocking.get_session({own}))"
    code = f"""
        session = bootstrap_session()
        session.update_form_data("contact", "name", "Katherine")
        waits, stored = get_persistence_engine().pending, {stored}
        show([waits, stored["state:form:contact"]["data"], dict(session.get_form_state("contact").data)])
    """
    assert browser.tabs[-1].run(code).values == [[1, {"name": "Grace"}, {"name": "Katherine"}]]


def test_a_restart_loses_nothing_and_a_kill_only_what_waits(
    own_server: Server, new_browser: NewBrowser
) -> None:
    browser = new_browser(own_server)
    typed(browser).run(FORM, Name="Grace")
    own_server.restart()
    assert browser.open().value(DATA) == {"name": "Grace"}
    browser.tabs[-1].run('save_form("contact", {"name": "Katherine"}, immediate=True)')
    own_server.restart(signal.SIGKILL)
    assert browser.open().value(DATA) == {"name": "Katherine"}
    browser.tabs[-1].run(FORM, Name="lost")  # the control: this one only waited
    own_server.restart(signal.SIGKILL)
    assert browser.open().value(DATA) == {"name": "Katherine"}


def test_the_first_edit_in_a_page_that_was_open_during_a_restart_is_kept(
    own_server: Server, new_browser: NewBrowser
) -> None:
    browser = new_browser(own_server)
    tab = typed(browser)
    own_server.restart()
    tab.connect()
    assert tab.run(FORM, Name="Adam").values == [{"name": "Adam"}]
    assert browser.open().value(DATA) == {"name": "Adam"}


def test_with_a_callback_alone_that_edit_would_be_lost(own_server: Server, new_browser: NewBrowser) -> None:
    code = """
        bootstrap_session(debounce_delay=600)
        def keep():
            persist_input("name", st.session_state.name, form_id="contact")
        st.text_input("Name", key="name", on_change=keep)
    """
    tab = new_browser(own_server).open()
    tab.run(code)
    tab.run(Name="Ada")
    own_server.restart()
    tab.connect().run(Name="Adam")
    assert tab.value(DATA) == {"name": "Ada"}


def test_a_websocket_that_reconnects_finds_its_session(browser: Browser) -> None:
    tab = typed(browser)
    streamlits, id_ = tab.id, tab.value(ID)
    tab.socket.close()
    assert tab.connect().value(ID) == id_
    assert tab.id == streamlits
    assert tab.value(DATA) == {"name": "Ada"}


def test_a_new_tab_is_the_same_session_and_sees_what_waits(browser: Browser) -> None:
    first = typed(browser)
    second = browser.open()
    assert second.value(ID) == first.value(ID)
    first.run(FORM, Name="Grace")
    assert second.value(DATA) == {"name": "Grace"}


def test_a_tab_nobody_typed_in_does_not_take_back_what_another_saved(browser: Browser) -> None:
    first, second = browser.open(), browser.open()
    for tab in (first, second):
        tab.run(FORM, Name="")
    first.run(Name="Ada")
    assert second.run(Name="").values == [{"name": "Ada"}]
    second.run(Name="Grace")
    assert first.value(DATA) == {"name": "Grace"}


def test_two_tabs_that_change_different_forms_lose_nothing(browser: Browser) -> None:
    first, second = typed(browser), browser.open()
    change = 'get_current_session().update_form_data("{0}", "x", 1); get_current_session().navigate_to("{0}")'
    first.run(change.format("a"))
    second.run(change.format("b"))
    found = second.value("[get_current_session().dirty_forms, get_current_session().metrics.page_views]")
    assert found == [["a", "b", "contact"], 2]


def test_looking_stores_nothing_and_neither_does_an_empty_widget(server: Server, browser: Browser) -> None:
    count = "get_session_manager().manager.blocking.count()"
    tab = typed(browser)
    before = tab.value(count)
    for _ in range(3):
        other = Browser(server)
        assert other.open().run(FORM).values == [{}]
        other.close()
    assert tab.value(count) == before


# Who sees what


def test_another_browser_has_another_session(
    browser: Browser, server: Server, new_browser: NewBrowser
) -> None:
    tab = typed(browser)
    other = new_browser(server).open()
    assert other.value(DATA) == {}
    assert other.value(ID) not in {None, tab.value(ID)}


@pytest.mark.parametrize("key", ["a key of somebody else, also with thirty-two bytes", None])
def test_a_forged_cookie_opens_nothing(
    browser: Browser, server: Server, new_browser: NewBrowser, key: str | None
) -> None:
    tab = typed(browser)
    session, secret, generation, signature = browser.http.cookies["session"].split(".")
    stolen = Credential(SessionId(session), secret, int(generation))
    swapped = signature[::-1] if signature[::-1][-1] in "AEIMQUYcgkosw048" else signature[:-2] + "AA"
    forged = (
        f"{session}.{secret}.{generation}.{swapped}"
        if key is None
        else CookieCodec(CookieSettings(), key).sign(stolen)
    )
    thief = new_browser(server)
    thief.http.cookies.set("session", forged, "127.0.0.1")
    assert Tab(thief).value(DATA) is None
    assert tab.value(DATA) == {"name": "Ada"}
    thief.load()  # as if there were no cookie: a promise of its own
    assert Tab(thief).value(DATA) == {}


def test_an_id_is_no_credential(browser: Browser, server: Server, new_browser: NewBrowser) -> None:
    own = typed(browser).value(ID)
    thief = new_browser(server).open()
    got = f"[bootstrap_session({own!r}).session_id, recover_session({own!r}), recover_session('nonsense')]"
    mine = thief.value(ID)
    assert thief.value(got) == [mine, None, None]
    told = "[f['activity_type'] for n, f in __import__('app').events if n == 'session_suspicious_activity']"
    assert thief.value(told).count("foreign_session_id") >= 3
    assert browser.tabs[0].value(f"bootstrap_session({own!r}).session_id") == own
    assert browser.tabs[0].value(f"recover_session({own!r}).session_id") == own


def test_streamlits_own_session_id_opens_no_other_visitors_state(
    browser: Browser, server: Server, new_browser: NewBrowser
) -> None:
    tab = typed(browser)
    tab.run("st.session_state.private = 1")
    tab.socket.close()
    thief = new_browser(server)
    resumed = thief.open()
    resumed.id = tab.id  # what Streamlit resumes by
    resumed.connect()
    assert resumed.value("[get_current_session(), sorted(st.session_state)]") == [
        None,
        ["_session_middleware"],
    ]
    assert resumed.value(DATA) == {}


def test_without_a_cookie_there_is_no_session_and_nothing_is_kept(
    server: Server, new_browser: NewBrowser
) -> None:
    tab = Tab(new_browser(server))
    assert tab.value("[bootstrap_session(), persist_input('a', 'b'), save_form('a', {})]") == [
        None,
        False,
        False,
    ]
    facade = "get_session_manager()"
    assert tab.value(f"[{facade}.navigate_to('x'), {facade}.go_back(), {facade}.invalidate_cache()]") == [
        None,
        None,
        [],
    ]


# One tab, another visitor


def test_a_tab_in_which_somebody_else_signed_in_keeps_nothing_of_the_former_visitor(browser: Browser) -> None:
    browser.load()
    browser.http.post("/sign-in/ada")
    tab = typed(browser)
    tab.run("st.session_state.private = 1")
    tab.run(FORM)
    browser.http.post("/sign-out")
    browser.http.post("/sign-in/eve")
    tab.socket.close()
    tab.connect()
    # The page still shows, and sends, what the former visitor typed. This run makes it drop that.
    assert tab.run(Name="Ada").values == [None]
    tab.typed.clear()
    assert tab.run().values == [{}]
    assert tab.value("[get_current_session().user_id, 'private' in st.session_state]") == ["eve", False]


def test_a_callback_that_finds_somebody_else_saves_nothing(browser: Browser) -> None:
    code = """
        def keep():
            st.session_state.kept = persist_input("name", st.session_state.name, form_id="contact")
        def body():
            session = bootstrap_session(debounce_delay=600)
            if session:
                st.text_input("Name", key="name", on_change=keep)
                show(dict(session.get_form_state("contact").data))
            else:
                show(None)
        body()
    """
    browser.load()
    browser.http.post("/sign-in/ada")
    tab = browser.open()
    tab.run(code)
    assert tab.run(Name="Ada").values == [{"name": "Ada"}]
    browser.http.post("/sign-out")
    browser.http.post("/sign-in/eve")
    tab.socket.close()
    tab.connect()
    assert tab.run(Name="Ada again").values == [None]
    tab.typed.clear()
    assert tab.run().values == [{}]


def test_to_sign_in_keeps_what_the_anonymous_visitor_had(browser: Browser) -> None:
    tab = typed(browser)
    tab.run("st.session_state.mine = 1")
    browser.http.post("/sign-in/ada")
    assert tab.closed_with() == 1008
    tab.connect()
    assert tab.value("[get_current_session().user_id, st.session_state.mine]") == ["ada", 1]
    assert tab.value(DATA) == {"name": "Ada"}


def test_a_logout_in_one_tab_closes_the_websocket_of_the_other(browser: Browser) -> None:
    browser.load()
    browser.http.post("/sign-in/ada")
    tab = typed(browser)
    browser.http.post("/sign-out")
    assert tab.closed_with() == 1008
    tab.connect()
    assert tab.run(FORM).values == [None]
    reloaded = browser.open()
    assert reloaded.value(DATA) == {}


def test_a_cleaned_up_session_ends_everywhere_and_a_reload_begins_a_new_one(browser: Browser) -> None:
    tab, other = typed(browser), browser.open()
    id_ = other.value(ID)
    end = "get_session_manager().cleanup_session()"
    tab.ask(end)  # the WebSocket may close before what the script shows has come
    for one in (tab, other):
        assert one.closed_with() == 1008
        assert one.connect().value(f"[{ID}, get_current_session(), {end}]") == [None, None, False]
    reloaded = browser.open()
    assert reloaded.value(DATA) == {}
    assert reloaded.value(ID) not in {None, id_}
    assert reloaded.value(f"get_session_manager().manager.blocking.get_session({id_!r})") is None


# Roles


def test_a_role_is_stored_at_once_and_the_next_page_brings_the_new_cookie(browser: Browser) -> None:
    tab, other = typed(browser), browser.open()
    browser.load()
    before = browser.http.cookies["session"]
    other.value(ID)
    stored = """
        session = bootstrap_session(role_permissions={"editor": {"write"}})
        session.add_role("editor")
        stored = get_session_manager().manager.blocking.get_session(session.session_id)
        show(["state:role:editor" in stored, session.has_permission("write")])
    """
    assert tab.run(stored).values == [[True, True]]
    browser.load()
    assert browser.http.cookies["session"] != before
    assert other.closed_with() == 1008
    assert other.connect().value("get_current_session().has_role('editor')")
    planted = Browser(browser.server)
    planted.http.cookies.set("session", before, "127.0.0.1")
    assert Tab(planted).value(ID) is None  # the former cookie is worthless
    planted.close()


def test_a_role_may_be_the_first_thing_there_is(browser: Browser) -> None:
    tab = browser.open()
    tab.run("bootstrap_session().add_role('editor')")
    assert tab.value("get_current_session().has_role('editor')")
    promise = browser.http.cookies["session"]
    assert browser.open().value("get_current_session().has_role('editor')")
    assert browser.http.cookies["session"] != promise


def test_an_open_tab_holds_its_session(browser: Browser) -> None:
    tab = typed(browser)
    assert (
        tab.value("len(get_session_manager().manager.active_requests(get_current_session().session_id))") == 1
    )


# Where it runs


def test_two_middlewares_in_one_process_are_not_mixed_up(tmp_path: Path, new_browser: NewBrowser) -> None:
    app = """
import streamlit as st
from fastapi import FastAPI
from starlette.middleware import Middleware
from session_middleware import SessionManager, SessionMiddleware
outer = SessionManager("sqlite:///outer.db", secret_key="outer" * 8, session_cookie="outer")
inner = SessionManager("sqlite:///inner.db", secret_key="inner" * 8, session_cookie="inner")
made_later = SessionManager("sqlite:///other.db", secret_key="other" * 8)
SessionMiddleware(lambda *_: None, manager=made_later, eager=True)
inside = st.App("script.py", middleware=[Middleware(SessionMiddleware, manager=inner, eager=True)])
app = FastAPI(lifespan=inside.lifespan())
app.mount("/", inside)
app.add_middleware(SessionMiddleware, manager=outer, eager=True)
"""
    with served(tmp_path / "app", app) as server:
        browser = new_browser(server)
        tab = browser.open()
        tab.run("bootstrap_session().navigate_to('here')")
        counts = "[m.blocking.count() for m in (__import__('app').inner, __import__('app').outer)]"
        assert tab.value(counts) == [1, 0]
        assert tab.value("get_session_manager().manager is __import__('app').inner")
        assert sorted(browser.http.cookies) == ["inner", "outer"]


def test_a_missing_middleware_is_named(tmp_path: Path, new_browser: NewBrowser) -> None:
    app = "import streamlit as st\napp = st.App('script.py')\n"
    with served(tmp_path / "app", app) as server:
        tab = Tab(new_browser(server), headers={"x-session-middleware-socket": "brought"})
        with pytest.raises(AssertionError, match="no session"):
            tab.run("bootstrap_session()")


def test_outside_of_a_script_that_is_said(tmp_path: Path) -> None:
    code = "from session_middleware.streamlit import get_current_session; get_current_session()"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "ConfigurationError: call this in a Streamlit script" in run.stderr


def test_without_streamlit_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['streamlit'] = None; import session_middleware.streamlit"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert 'pip install "session_middleware[streamlit]"' in run.stderr


def test_the_log_shows_no_credential(browser: Browser, server: Server) -> None:
    tab = typed(browser)
    tab.run("st.write(st.session_state)")
    tab.run("print(repr(st.session_state._session_middleware), st.session_state)")
    secret = browser.http.cookies["session"].split(".")[1]
    assert "_Tab of" in server.log.read_text()
    assert secret not in server.log.read_text()


def test_the_script_of_the_docs_keeps_what_is_typed(browser: Browser) -> None:
    code = (ROOT / "docs/streamlit.md").read_text().split("```py\n")[1].split("```")[0]
    tab = browser.open()
    tab.run(code)
    tab.run(Name="Ada")
    assert browser.open().run(code).shown == {"Name": "Ada"}
