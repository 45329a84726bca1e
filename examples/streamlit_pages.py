"""The pages of `streamlit_app.py`: a form with undo, a list that a form adds to, and one for editors only."""

from html import escape

import streamlit as st

from session_middleware.state import UserSession
from session_middleware.streamlit import bootstrap_session, get_session_manager, persist_input, save_form

EDITORS = {"ada"}


def contact(session: UserSession) -> None:
    """A form that is kept while it is typed, with every step to be undone."""
    form = session.get_form_state("contact")
    for field in ("Name", "City"):
        typed = st.text_input(field, form.data.get(field, ""), key=f"{field} {form.edition}")
        persist_input(field, typed, form_id="contact")
    undo, redo, save = st.columns(3)
    if undo.button("Undo", disabled=not form.can_undo):
        session.undo_form("contact")
        st.rerun()
    if redo.button("Redo", disabled=not form.can_redo):
        session.redo_form("contact")
        st.rerun()
    if save.button("Save"):
        save_form("contact", form.data, immediate=True)
    filled = ", ".join(field for field, value in form.data.items() if value)
    st.caption(f"{'Not saved yet' if form.is_dirty else 'Saved'}: {filled or 'nothing'}")


def history(session: UserSession) -> None:
    """Where the visitor has been."""
    for entry in session.navigation_history:
        st.write(entry.page)


def editors(session: UserSession) -> None:
    """Only for those with the role."""
    st.write(f"Welcome to the editors' page, {session.user_id}.")


FIRST = "Contact"
PAGES = {"Contact": contact, "History": history, "Editors": editors}


def sidebar(session: UserSession) -> None:
    """To go to another page, back, and to sign in and out."""
    sessions = get_session_manager()
    with st.sidebar:
        for page in PAGES:
            allowed = page != "Editors" or session.has_role("editor")
            if st.button(page, disabled=not allowed, width="stretch"):
                if session.current_page is None:
                    sessions.navigate_to(FIRST)  # so that Back leads to it
                sessions.navigate_to(page)
        if st.button("Back", disabled=len(session.navigation_history) < 2, width="stretch"):  # noqa: PLR2004  (this page only)
            sessions.go_back()
        if session.user_id is None:
            form("/sign-in", '<button name="user" value="ada">Sign in as Ada</button>')
        else:
            form("/sign-out", f"<button>Sign out {escape(session.user_id)}</button>")


def form(action: str, button: str) -> None:
    """What a script cannot do itself, because it cannot set a cookie."""
    st.html(f'<form method="post" action="{action}">{button}</form>')


session = bootstrap_session()
if session is None:
    st.warning("Please reload this page.")
    st.stop()
if session.user_id in EDITORS:
    session.add_role("editor")
sidebar(session)
shown = session.current_page or FIRST
if shown == "Editors" and not session.has_role("editor"):
    shown = FIRST
st.title(shown)
PAGES[shown](session)
