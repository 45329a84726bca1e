"""The parts of the working state, over a plain dictionary and a session made by itself: no I/O at all."""

import json
from typing import Any

import pytest

from session_middleware import ConfigurationError, Session, SessionDataError
from session_middleware.state import (
    Access,
    Activity,
    CacheKeys,
    Contexts,
    FormLimits,
    Forms,
    Navigation,
    UserSession,
)
from session_middleware.state.patches import patched, step_between
from session_middleware.state.store import PREFIX
from session_middleware.testing import ManualClock

NOT_JSON: Any = object()


@pytest.fixture(params=[dict, Session])
def values(request: pytest.FixtureRequest) -> Any:
    return request.param()


# Navigation


def test_a_new_one_has_no_page_and_nowhere_to_go(values: Any) -> None:
    navigation = Navigation(values)
    assert (navigation.current_page, navigation.history) == (None, [])
    assert (navigation.go_back(), navigation.go_forward()) == (None, None)
    assert not values


def test_back_and_forward_go_as_in_a_browser(values: Any) -> None:
    clock = ManualClock(100.0)
    navigation = Navigation(values, clock=clock)
    for page in ("home", "list", "item"):
        navigation.navigate_to(page, {"from": page})
        clock.advance(1)
    assert [one.page for one in navigation.history] == ["home", "list", "item"]
    assert [one.timestamp for one in navigation.history] == [100.0, 101.0, 102.0]
    back = navigation.go_back()
    assert back is not None
    assert (back.page, back.params) == ("list", {"from": "list"})
    assert (navigation.current_page, navigation.can_go_forward) == ("list", True)
    forward = navigation.go_forward()
    assert forward is not None
    assert forward.page == "item"
    assert not navigation.can_go_forward


def test_going_elsewhere_forgets_what_lay_forward(values: Any) -> None:
    navigation = Navigation(values)
    for page in ("home", "list"):
        navigation.navigate_to(page)
    navigation.go_back()
    navigation.navigate_to("help")
    assert navigation.go_forward() is None
    assert [one.page for one in navigation.history] == ["home", "help"]


def test_a_rerun_of_the_same_page_is_no_step_but_other_params_are(values: Any) -> None:
    navigation = Navigation(values)
    for params in ({"id": 1}, {"id": 1}, {"id": 2}):
        navigation.navigate_to("item", params)
    assert [one.params["id"] for one in navigation.history] == [1, 2]


def test_the_way_is_bounded_and_keeps_the_newest(values: Any) -> None:
    navigation = Navigation(values, max_history=3)
    for number in range(10):
        navigation.navigate_to(f"p{number}")
    assert [one.page for one in navigation.history] == ["p7", "p8", "p9"]
    for _ in range(5):
        navigation.go_back()
    assert navigation.current_page == "p7"


def test_params_are_a_copy_of_their_own(values: Any) -> None:
    params: dict[str, Any] = {"ids": [1]}
    Navigation(values).navigate_to("item", params)
    params["ids"].append(2)
    assert Navigation(values).history[0].params == {"ids": [1]}


# Forms


def test_looking_at_a_form_makes_none(values: Any) -> None:
    form = Forms(values).form("contact")
    assert (dict(form.data), form.is_dirty, dict(form.errors), form.snapshots) == ({}, False, {}, [])
    assert (form.undo(), form.redo(), form.restore_snapshot("x")) == (False, False, False)
    assert not values


def test_a_form_is_dirty_while_it_differs_from_what_was_saved(values: Any) -> None:
    forms = Forms(values)
    form = forms.form("contact")
    form.update("name", "Ada")
    assert (form.is_dirty, forms.dirty_forms) == (True, ["contact"])
    form.mark_saved()
    assert (form.is_dirty, forms.dirty_forms) == (False, [])
    form.update("name", "Grace")
    assert form.is_dirty
    form.update("name", "Ada")
    assert not form.is_dirty


def test_the_order_of_fields_makes_no_form_dirty(values: Any) -> None:
    form = Forms(values).form("contact")
    form.replace({"a": 1, "b": 2})
    form.mark_saved()
    form.replace({"b": 2, "a": 1})
    assert not form.is_dirty


def test_data_cannot_be_changed_past_the_form(values: Any) -> None:
    form = Forms(values).form("contact")
    form.update("name", "Ada")
    with pytest.raises(TypeError):
        form.data["name"] = "Grace"  # type: ignore[index]
    assert form.data["name"] == "Ada"


def test_each_change_is_taken_back_and_made_again(values: Any) -> None:
    form = Forms(values).form("contact")
    states: list[dict[str, Any]] = [{}]
    for change in ({"name": "A"}, {"name": "A", "tags": [1]}, {"tags": [1, 2]}):
        form.replace(change)
        states.append(dict(change))
    for state in reversed(states[:-1]):
        assert form.undo()
        assert dict(form.data) == state
    assert not form.undo()
    for state in states[1:]:
        assert form.redo()
        assert dict(form.data) == state
    assert not form.redo()


def test_a_new_change_after_undo_ends_redo(values: Any) -> None:
    form = Forms(values).form("contact")
    form.update("name", "A")
    form.undo()
    form.update("name", "B")
    assert not form.can_redo


def test_undo_is_bounded_in_depth_and_in_bytes(values: Any) -> None:
    form = Forms(values, limits=FormLimits(undo_depth=3)).form("deep")
    for number in range(10):
        form.update("n", number)
    assert [form.undo() for _ in range(5)] == [True, True, True, False, False]
    assert form.data["n"] == 6
    wide = Forms(values, limits=FormLimits(undo_bytes=1000)).form("wide")
    for letter in "abcdefgh":
        wide.update("text", letter * 400)
    assert [wide.undo() for _ in range(3)] == [True, True, False]
    assert len(json.dumps(values[f"{PREFIX}steps:wide"])) < 2500


def test_a_snapshot_is_what_the_form_was_and_restoring_it_can_be_undone(values: Any) -> None:
    clock = ManualClock(5.0)
    form = Forms(values, clock=clock).form("contact")
    form.update("name", "Ada")
    snapshot = form.create_snapshot("before")
    form.update("name", "Grace")
    form.update("mail", "g@example.org")
    assert (snapshot.description, snapshot.created_at, snapshot.data) == ("before", 5.0, {"name": "Ada"})
    assert form.restore_snapshot(snapshot.snapshot_id)
    assert dict(form.data) == {"name": "Ada"}
    form.undo()
    assert dict(form.data) == {"name": "Grace", "mail": "g@example.org"}


def test_an_edition_ends_with_each_change_that_no_field_made(values: Any) -> None:
    form = Forms(values).form("contact")
    form.update("name", "Ada")
    snapshot = form.create_snapshot()
    form.update("name", "Grace")
    form.mark_saved()
    assert form.edition == 0
    assert [form.undo(), form.redo(), form.restore_snapshot(snapshot.snapshot_id)] == [True] * 3
    assert form.edition == 3
    assert not form.redo()
    assert form.edition == 3


def test_snapshots_are_bounded_in_number_and_in_bytes(values: Any) -> None:
    form = Forms(values, limits=FormLimits(snapshots=2, snapshot_bytes=500)).form("contact")
    for number in range(4):
        form.update("n", number)
        form.create_snapshot(str(number))
    assert [one.description for one in form.snapshots] == ["2", "3"]
    form.update("text", "x" * 390)
    form.create_snapshot("large")
    assert [one.description for one in form.snapshots] == ["large"]
    form.update("text", "x" * 600)
    with pytest.raises(SessionDataError, match="snapshot_bytes"):
        form.create_snapshot("too large")
    assert [one.description for one in form.snapshots] == ["large"]


def test_messages_are_written_to_the_session_however_they_are_changed(values: Any) -> None:
    form = Forms(values).form("contact")
    form.errors["mail"] = ["No address"]
    form.errors["mail"].append("Too long")
    form.errors.setdefault("name", []).append("Missing")
    form.warnings["phone"] = ["Not verified"]
    again = Forms(values).form("contact")
    assert dict(again.errors) == {"mail": ["No address", "Too long"], "name": ["Missing"]}
    assert dict(again.warnings) == {"phone": ["Not verified"]}
    del again.errors["mail"]
    again.errors.pop("name")
    assert not form.errors


def test_two_forms_share_no_key_and_discarding_one_leaves_the_other(values: Any) -> None:
    forms = Forms(values)
    for name in ("a", "b"):
        forms.form(name).update("x", name)
        forms.form(name).create_snapshot()
    forms.form("a").discard()
    assert forms.form_ids == ["b"]
    assert forms.form("b").data == {"x": "b"}
    assert len(forms.form("b").snapshots) == 1
    assert all(key.endswith(":b") for key in values)


def test_what_no_session_can_hold_is_refused_at_once_and_changes_nothing(values: Any) -> None:
    with pytest.raises(SessionDataError):
        Forms(values).form("contact").update("field", NOT_JSON)
    with pytest.raises(SessionDataError):
        Navigation(values).navigate_to("page", {"x": NOT_JSON})
    assert not values


def test_a_step_makes_one_state_of_another() -> None:
    now, then = {"a": 1, "b": [1], "c": None}, {"a": 2, "b": [1], "d": None}
    step: Any = step_between(now, then)
    assert step == {"set": {"a": 2, "d": None}, "unset": ["c"]}
    assert patched(now, step) == then


# Cache keys


def test_invalidating_follows_dependencies_in_any_depth_and_through_circles(values: Any) -> None:
    cache = CacheKeys(values)
    cache.add("user_1")
    cache.add("profile_1", {"user_1"})
    cache.add("page_1", ["profile_1", "page_2"])
    cache.add("page_2", ["page_1"])
    cache.add("user_2")
    assert cache.invalidate("user_1") == ["page_1", "page_2", "profile_1", "user_1"]
    assert cache.keys == ["user_2"]


def test_a_dependency_that_is_no_key_invalidates_too(values: Any) -> None:
    cache = CacheKeys(values)
    cache.add("list", {"table:users"})
    assert cache.invalidate("table:users") == ["list"]
    assert cache.invalidate("table:users") == []


def test_every_key_that_contains_the_pattern_goes(values: Any) -> None:
    cache = CacheKeys(values)
    for key in ("user_data_1", "user_data_2", "other"):
        cache.add(key)
    assert cache.invalidate("user_data") == ["user_data_1", "user_data_2"]
    assert cache.invalidate_all() == ["other"]
    assert not values


def test_what_makes_room_takes_what_rests_on_it(values: Any) -> None:
    clock = ManualClock()
    cache = CacheKeys(values, max_keys=3, clock=clock)
    for key, on in (("old", ()), ("on_old", ("old",)), ("new", ())):
        cache.add(key, on)
        clock.advance(1)
    assert cache.add("newest") == ["old", "on_old"]
    assert cache.keys == ["new", "newest"]
    assert cache.add("new") == []


# Access


def test_roles_imply_permissions_and_permissions_are_given_besides(values: Any) -> None:
    access = Access(values, role_permissions={"editor": {"read", "write"}})
    access.add_role("editor")
    access.add_permission("delete")
    assert access.permissions == {"read", "write", "delete"}
    assert not access.remove_permission("write")
    assert access.has_permission("write")
    access.remove_role("editor")
    assert access.permissions == {"delete"}
    assert access.remove_permission("delete")
    assert not access.has_permission("delete")


def test_no_role_contains_another(values: Any) -> None:
    access = Access(values)
    access.add_role("admin:readonly")
    assert not access.has_role("admin")
    assert not access.has_permission("admin:readonly")


def test_a_change_of_access_cycles_the_session_and_no_change_does_not() -> None:
    session = Session()
    access = Access(session)
    access.add_role("admin")
    assert session.life.cycle == 0
    session.life.forget()
    access.add_role("admin")
    access.remove_role("nobody")
    assert session.life.cycle is None
    access.remove_role("admin")
    assert session.life.cycle == 0


# Activity and contexts


def test_activity_counts_and_tells_how_long(values: Any) -> None:
    clock = ManualClock(100.0)
    activity = Activity(values, clock=clock)
    assert activity.metrics == (0, 0, 0.0, None)
    activity.view_page()
    clock.advance(30)
    activity.interact()
    activity.interact()
    assert activity.metrics == (1, 2, 30.0, 130.0)


def test_contexts_are_switched_each_on_its_own(values: Any) -> None:
    clock = ManualClock(100.0)
    contexts = Contexts(values, clock=clock)
    assert contexts.switch("platform", "web") is None
    clock.advance(5)
    assert contexts.switch("platform", "web") == "web"
    assert contexts.since("platform") == 100.0
    assert contexts.switch("platform", "mobile") == "web"
    contexts.switch("tenant", "acme")
    assert contexts.current == {"platform": "mobile", "tenant": "acme"}
    assert contexts.since("platform") == 105.0


def test_a_switch_whose_work_fails_does_not_happen(values: Any) -> None:
    contexts = Contexts(values)
    contexts.switch("platform", "web")
    with pytest.raises(ZeroDivisionError), contexts.switching("platform", "mobile"):
        raise ZeroDivisionError
    assert contexts.get("platform") == "web"


# All of it


def test_everything_is_json_under_keys_of_its_own(values: Any) -> None:
    session = UserSession(values)
    session.navigate_to("home", {"a": [1]})
    session.update_form_data("contact", "name", "Ada")
    session.create_form_snapshot("contact", "x")
    session.add_role("admin")
    session.add_permission("write")
    session.add_cache_key("k", {"d"})
    session.switch_context("platform", "web")
    session.get_form_state("contact").errors["name"] = ["?"]
    assert json.loads(json.dumps(dict(values))) == dict(values)
    assert all(key.startswith(PREFIX) for key in values)


def test_no_value_is_in_any_repr() -> None:
    session = UserSession(user_id="u-1")
    session.update_form_data("contact", "name", "Ada Lovelace")
    form = session.get_form_state("contact")
    form.errors["name"] = ["Ada Lovelace?"]
    assert "Lovelace" not in f"{session!r} {form!r} {form.errors!r} {session.values!r}"


def test_undoing_and_restoring_are_interactions_and_going_back_is_a_view() -> None:
    session = UserSession()
    session.navigate_to("a")
    session.navigate_to("b")
    session.go_back()
    session.go_forward()
    assert session.metrics.page_views == 4
    session.update_form_data("f", "x", 1)
    snapshot = session.create_form_snapshot("f")
    assert session.undo_form("f")
    assert session.redo_form("f")
    assert session.restore_form_snapshot(snapshot.snapshot_id)
    session.mark_form_saved("f")
    assert session.metrics.interaction_count == 5
    assert not session.restore_form_snapshot("unknown")
    assert session.go_forward() is None
    assert (session.metrics.page_views, session.metrics.interaction_count) == (4, 5)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: Navigation({}, max_history=0), "max_history"),
        (lambda: CacheKeys({}, max_keys=-1), "max_keys"),
        (lambda: Forms({}, limits=FormLimits(undo_depth=0)), "undo_depth"),
        (lambda: Navigation({}).navigate_to(""), "page"),
        (lambda: Navigation({}).navigate_to(7), "page"),  # type: ignore[arg-type]
        (lambda: Forms({}).form(""), "form_id"),
        (lambda: Access({}).add_role(""), "role"),
        (lambda: Access({}, role_permissions={"editor": "read"}), "role_permissions"),
        (lambda: CacheKeys({}).add("a", "bc"), "dependencies"),
        (lambda: CacheKeys({}).invalidate(""), "pattern"),
        (lambda: Contexts({}).switch("platform", ""), "value"),
        (lambda: UserSession({}, user_id="u"), "user_id"),
        (lambda: UserSession(user_id=""), "user_id"),
    ],
)
def test_bad_arguments_are_named(wrong: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        wrong()
