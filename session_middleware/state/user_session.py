"""Everything an app keeps for its visitor between two requests, on one object."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

from session_middleware.errors import ConfigurationError
from session_middleware.jobs import error_of, progress_of, results_of
from session_middleware.record import SessionId
from session_middleware.session import Session, user_text
from session_middleware.state.access import Access
from session_middleware.state.activity import Activity, Metrics
from session_middleware.state.cache_keys import CacheKeys
from session_middleware.state.context import Contexts
from session_middleware.state.forms import FormLimits, Forms, FormSnapshot, FormState
from session_middleware.state.navigation import Navigation, NavigationEntry
from session_middleware.state.store import Clock, Store
from session_middleware.values import JsonValue

__all__ = ["StateLimits", "UserSession"]


class StateLimits(NamedTuple):
    """How much of each kind a session remembers; the oldest is forgotten first."""

    history: int = 50
    cache_keys: int = 200
    forms: FormLimits = FormLimits()


class UserSession:
    """The working state of one visitor: navigation, forms, cache keys, access, activity, contexts.

    Args:
        values: `request.session`, a `Session` of the manager, or any dictionary. None: a session of its own,
            which is stored when a `PersistenceEngine` first persists it.
        user_id: whose it is; only for a session of its own. A stored session has its user by `login()`.
        role_permissions: what each role implies. Default: nothing.
        limits: how much is remembered.
        clock: answers seconds since the epoch; for tests.

    The parts are attributes too (`navigation`, `forms`, `cache`, `access`, `activity`, `contexts`). It is a
    view: it keeps nothing itself, and making one writes nothing.
    """

    def __init__(
        self,
        values: Store | None = None,
        *,
        user_id: str | int | None = None,
        role_permissions: Mapping[str, Collection[str]] | None = None,
        limits: StateLimits = StateLimits(),  # noqa: B008  (immutable)
        clock: Clock = time.time,
    ) -> None:
        if values is not None and user_id is not None:
            raise ConfigurationError("user_id: the session given has its own; sign in by session.login()")
        self._user_id = None if user_id is None else user_text(user_id)
        self._access = partial(Access, role_permissions=role_permissions)
        self._limits = limits
        self._clock = clock
        self.attach(Session() if values is None else values)

    def __repr__(self) -> str:  # what is in it stays out of logs
        return f"<UserSession {self.session_id}>"

    def attach(self, values: Store) -> None:
        """Be the view of *values* from now on."""
        limits, clock = self._limits, self._clock
        self.values = values
        """What everything is kept in."""
        self.navigation = Navigation(values, max_history=limits.history, clock=clock)
        self.forms = Forms(values, limits=limits.forms, clock=clock)
        self.cache = CacheKeys(values, max_keys=limits.cache_keys, clock=clock)
        self.access = self._access(values)
        self.activity = Activity(values, clock=clock)
        self.contexts = Contexts(values, clock=clock)

    # --- identity ---

    @property
    def session_id(self) -> SessionId | None:
        """Public name of the session, None before it is stored. Never a credential."""
        return self.values.id if isinstance(self.values, Session) else None

    @property
    def user_id(self) -> str | None:
        """Whose session it is; None: nobody's."""
        known = self.values.user_id if isinstance(self.values, Session) else None
        return known if known is not None else self._user_id

    # --- navigation ---

    @property
    def current_page(self) -> str | None:
        """The present page; None before the first."""
        return self.navigation.current_page

    @property
    def navigation_history(self) -> list[NavigationEntry]:
        """The pages from the oldest to the present one."""
        return self.navigation.history

    def navigate_to(self, page: str, params: Mapping[str, JsonValue] | None = None) -> NavigationEntry:
        """Go to *page*; counts as a page view."""
        entry = self.navigation.navigate_to(page, params)
        self.activity.view_page()
        return entry

    def go_back(self) -> NavigationEntry | None:
        """The page before, which is the present one now; None, and nothing changes, if there is none."""
        return self._viewed(self.navigation.go_back())

    def go_forward(self) -> NavigationEntry | None:
        """The page that was gone back from last; None, and nothing changes, if there is none."""
        return self._viewed(self.navigation.go_forward())

    # --- forms ---

    @property
    def dirty_forms(self) -> list[str]:
        """The forms with data that were not marked as saved."""
        return self.forms.dirty_forms

    def get_form_state(self, form_id: str) -> FormState:
        """The form of this name; looking at it makes none."""
        return self.forms.form(form_id)

    def update_form_data(self, form_id: str, field: str, value: JsonValue) -> None:
        """Set one field, as a step that can be undone; counts as an interaction."""
        self.forms.form(form_id).update(field, value)
        self.activity.interact()

    def mark_form_saved(self, form_id: str) -> None:
        """What the form holds now is saved; counts as an interaction."""
        self.forms.form(form_id).mark_saved()
        self.activity.interact()

    def undo_form(self, form_id: str) -> bool:
        """Take the form's last step back; False if none is known."""
        return self._interacted(self.forms.form(form_id).undo())

    def redo_form(self, form_id: str) -> bool:
        """Make the step again that was taken back last; False if there is none."""
        return self._interacted(self.forms.form(form_id).redo())

    def create_form_snapshot(self, form_id: str, description: str = "") -> FormSnapshot:
        """Keep the form's data as they are now."""
        return self.forms.form(form_id).create_snapshot(description)

    def restore_form_snapshot(self, snapshot_id: str) -> bool:
        """Make the data of the snapshot's form what they were; False if it is not known (any more)."""
        form = self.forms.form_of_snapshot(snapshot_id)
        return self._interacted(form is not None and form.restore_snapshot(snapshot_id))

    # --- cache keys ---

    def add_cache_key(self, key: str, dependencies: Iterable[str] = ()) -> None:
        """Note that *key* is cached, and what it rests on."""
        self.cache.add(key, dependencies)

    def invalidate_cache_keys(self, pattern: str | None = None) -> list[str]:
        """Forget the keys that contain *pattern* and all that rest on them; None: every key. Those keys."""
        return self.cache.invalidate_all() if pattern is None else self.cache.invalidate(pattern)

    # --- access ---

    @property
    def roles(self) -> frozenset[str]:
        """The session's roles."""
        return self.access.roles

    @property
    def permissions(self) -> frozenset[str]:
        """All that it may do."""
        return self.access.permissions

    def add_role(self, role: str) -> bool:
        """Give it this role, and a new cookie; False if it had it."""
        return self.access.add_role(role)

    def has_role(self, role: str) -> bool:
        """Whether it has this role."""
        return self.access.has_role(role)

    def remove_role(self, role: str) -> bool:
        """Take this role away, and give a new cookie; False if it did not have it."""
        return self.access.remove_role(role)

    def add_permission(self, permission: str) -> bool:
        """Give it this permission, and a new cookie; False if it was given before."""
        return self.access.add_permission(permission)

    def has_permission(self, permission: str) -> bool:
        """Whether it was given this permission, or a role of its implies it."""
        return self.access.has_permission(permission)

    def remove_permission(self, permission: str) -> bool:
        """Take back what `add_permission` gave, and give a new cookie; False if that was nothing."""
        return self.access.remove_permission(permission)

    # --- the rest ---

    @property
    def metrics(self) -> Metrics:
        """Page views, interactions, duration, last activity."""
        return self.activity.metrics

    @property
    def progress(self) -> dict[str, JsonValue] | None:
        """How far the session's job was when the session was loaded; None: it has said nothing."""
        return progress_of(self.values)

    @property
    def results(self) -> dict[int, JsonValue]:
        """What the job had made by then, by number."""
        return results_of(self.values)

    @property
    def error_message(self) -> str | None:
        """Why the job failed, or None."""
        return error_of(self.values)

    def switch_context(self, name: str, value: str) -> str | None:
        """Switch the context *name* (a platform, a workspace) to *value*; what it was."""
        return self.contexts.switch(name, value)

    def switching_context(self, name: str, value: str) -> AbstractContextManager[str | None]:
        """The same around the work that a switch needs; the event tells its duration."""
        return self.contexts.switching(name, value)

    # --- inside ---

    def _viewed(self, entry: NavigationEntry | None) -> NavigationEntry | None:
        if entry is not None:
            self.activity.view_page()
        return entry

    def _interacted(self, happened: bool) -> bool:
        if happened:
            self.activity.interact()
        return happened
