"""Forms that are not lost: data, whether it was saved, errors, snapshots, undo and redo.

A form is three session keys (its state, its steps, its snapshots), so parallel requests to different forms
merge; of two that write to one form, the last wins.

Reading order: `FormSnapshot`, `FormState` (one form), `FieldMessages` (its errors or warnings), `Forms`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, MutableMapping
from copy import deepcopy
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from session_middleware.errors import SessionDataError
from session_middleware.state.patches import bounded, patched, step_between
from session_middleware.state.store import PREFIX, Clock, Store, held, limit, names_under, read, text
from session_middleware.values import JsonValue, encode_value

__all__ = ["FieldMessages", "FormLimits", "FormSnapshot", "FormState", "Forms"]

_FORM: Final = f"{PREFIX}form:"
_STEPS: Final = f"{PREFIX}steps:"
_SNAPSHOTS: Final = f"{PREFIX}snapshots:"


class FormLimits(NamedTuple):
    """How much one form remembers; the oldest is forgotten first. A session holds 64 KiB by default."""

    snapshots: int = 10
    snapshot_bytes: int = 16 * 1024
    """Of JSON, all snapshots of a form together. One larger than this is refused."""
    undo_depth: int = 20
    undo_bytes: int = 8 * 1024
    """Of JSON, for undo and for redo each. A single step larger than this cannot be undone."""


class FormSnapshot(NamedTuple):
    """A form's data at one moment; `created_at` in seconds since the epoch."""

    snapshot_id: str
    form_id: str
    description: str
    created_at: float
    data: dict[str, JsonValue]


class FormState:
    """One form of one session. Looking at it writes nothing."""

    def __init__(
        self,
        values: Store,
        form_id: str,
        *,
        limits: FormLimits = FormLimits(),  # noqa: B008  (immutable)
        clock: Clock = time.time,
    ) -> None:
        self._values = values
        self.form_id = text("form_id", form_id)
        self._limits = limits
        self._clock = clock

    def __repr__(self) -> str:  # what was typed stays out of logs
        return f"<FormState {self.form_id} fields={len(self.data)} is_dirty={self.is_dirty}>"

    # --- its data ---

    @property
    def data(self) -> Mapping[str, JsonValue]:
        """The fields, to read: change them by `update`, `replace` and `remove`."""
        return MappingProxyType(self._data())

    @property
    def is_dirty(self) -> bool:
        """The data differ from what was last marked as saved; from no data, if nothing was."""
        saved: object = read(self._values, self._key).get("saved", _NO_DATA)
        return _digest(self.data) != saved

    @property
    def updated_at(self) -> float | None:
        """When a field last changed, in seconds since the epoch."""
        return self._time("updated_at")

    @property
    def saved_at(self) -> float | None:
        """When it was last marked as saved, in seconds since the epoch."""
        return self._time("saved_at")

    @property
    def edition(self) -> int:
        """How often undo, redo or a snapshot changed the data: a page shows its fields anew for each."""
        found = read(self._values, self._key).get("edition")
        return found if isinstance(found, int) else 0

    def update(self, field: str, value: JsonValue) -> None:
        """Set one field, as a step that can be undone. To what it is already: nothing happens."""
        self.replace({**self.data, text("field", field): value})

    def remove(self, field: str) -> None:
        """Take one field away, as a step that can be undone."""
        self.replace({name: value for name, value in self.data.items() if name != field})

    def replace(self, data: Mapping[str, JsonValue]) -> None:
        """Make these all the fields there are, as one step that can be undone."""
        kept: Any = held(self._key, dict(data))
        before = self._data()
        if kept != before:
            self._keep_steps(undo=[*self._steps("undo"), step_between(kept, before)], redo=[])
            self._keep(data=kept, updated_at=self._clock())

    def mark_saved(self) -> None:
        """What the fields hold now is saved: the form is not dirty until one of them differs again."""
        self._keep(saved=_digest(self.data), saved_at=self._clock())

    def discard(self) -> None:
        """Forget the form: data, messages, steps and snapshots."""
        for key in (self._key, self._steps_key, self._snapshots_key):
            self._values.pop(key, None)

    # --- what is wrong with it ---

    @property
    def errors(self) -> FieldMessages:
        """Field → messages, to read and change: `form.errors["email"] = ["Not an address"]`."""
        return FieldMessages(self._values, self._key, "errors")

    @property
    def warnings(self) -> FieldMessages:
        """The same for what does not keep the form from being saved."""
        return FieldMessages(self._values, self._key, "warnings")

    # --- undo and redo ---

    @property
    def can_undo(self) -> bool:
        """There is a step to take back."""
        return bool(self._steps("undo"))

    @property
    def can_redo(self) -> bool:
        """A step was taken back, and no other made since."""
        return bool(self._steps("redo"))

    def undo(self) -> bool:
        """Take the last step back; False, and nothing changes, if none is known."""
        return self._walk("undo", "redo")

    def redo(self) -> bool:
        """Make the step again that was taken back last; False, and nothing changes, if there is none."""
        return self._walk("redo", "undo")

    # --- snapshots ---

    @property
    def snapshots(self) -> list[FormSnapshot]:
        """From the oldest to the newest."""
        found: Any = read(self._values, self._snapshots_key).get("snapshots", [])
        return [FormSnapshot(form_id=self.form_id, **deepcopy(one)) for one in found]

    def create_snapshot(self, description: str = "") -> FormSnapshot:
        """Keep the data as they are now. The oldest snapshots are forgotten beyond the limits.

        Raises `SessionDataError` if this one alone is beyond `snapshot_bytes`.
        """
        made = FormSnapshot(secrets.token_urlsafe(8), self.form_id, description, self._clock(), self._data())
        all_of_them: list[Any] = [_stored(one) for one in [*self.snapshots, made]]
        limits = self._limits
        kept = bounded(all_of_them, most=limits.snapshots, max_bytes=limits.snapshot_bytes)
        if not kept:
            raise SessionDataError(
                f"session[{self._snapshots_key!r}]: the form is larger than {limits.snapshot_bytes} bytes, "
                "the most its snapshots may take; raise FormLimits.snapshot_bytes",
                self._snapshots_key,
            )
        self._values[self._snapshots_key] = {"snapshots": kept}
        return made

    def restore_snapshot(self, snapshot_id: str) -> bool:
        """Make the data what they were, as a step that can be undone. False if it is not known (any more)."""
        found = next((one for one in self.snapshots if one.snapshot_id == snapshot_id), None)
        if found is None:
            return False
        self.replace(found.data)
        self._keep(edition=self.edition + 1)
        return True

    # --- inside ---

    @property
    def _key(self) -> str:
        return f"{_FORM}{self.form_id}"

    @property
    def _steps_key(self) -> str:
        return f"{_STEPS}{self.form_id}"

    @property
    def _snapshots_key(self) -> str:
        return f"{_SNAPSHOTS}{self.form_id}"

    def _data(self) -> dict[str, JsonValue]:
        found = read(self._values, self._key).get("data")
        return deepcopy(found) if isinstance(found, dict) else {}

    def _time(self, name: str) -> float | None:
        found = read(self._values, self._key).get(name)
        return found if isinstance(found, int | float) else None

    def _steps(self, name: str) -> list[JsonValue]:
        found = read(self._values, self._steps_key).get(name)
        return list(found) if isinstance(found, list) else []

    def _keep(self, **facts: JsonValue) -> None:
        self._values[self._key] = {**read(self._values, self._key), **facts}

    def _keep_steps(self, **steps: list[JsonValue]) -> None:
        most, max_bytes = self._limits.undo_depth, self._limits.undo_bytes
        kept: Any = {name: bounded(some, most=most, max_bytes=max_bytes) for name, some in steps.items()}
        self._values[self._steps_key] = kept

    def _walk(self, taken: str, given: str) -> bool:
        steps: list[Any] = self._steps(taken)
        if not steps:
            return False
        before = self._data()
        after = patched(before, steps.pop())
        self._keep_steps(**{taken: steps, given: [*self._steps(given), step_between(after, before)]})
        self._keep(data=after, updated_at=self._clock(), edition=self.edition + 1)
        return True


class FieldMessages(MutableMapping[str, list[str]]):
    """What is said of each field. Every change is written to the session."""

    def __init__(self, values: Store, key: str, name: str) -> None:
        self._values = values
        self._key = key
        self._name = name

    def __getitem__(self, field: str) -> list[str]:
        return self._read()[field]

    def __setitem__(self, field: str, messages: list[str]) -> None:
        self._write({**self._read(), text("field", field): messages})

    def __delitem__(self, field: str) -> None:
        messages = self._read()
        del messages[field]
        self._write(messages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:  # a message may quote what was typed
        return f"<FieldMessages {self._name} of {sorted(self)}>"

    def _read(self) -> dict[str, list[str]]:
        found: Any = read(self._values, self._key).get(self._name)
        return dict(found) if isinstance(found, dict) else {}

    def _write(self, messages: dict[str, Any]) -> None:
        self._values[self._key] = {**read(self._values, self._key), self._name: messages}


class Forms:
    """All forms of one session."""

    def __init__(
        self,
        values: Store,
        *,
        limits: FormLimits = FormLimits(),  # noqa: B008  (immutable)
        clock: Clock = time.time,
    ) -> None:
        for name, value in limits._asdict().items():
            limit(name, value)
        self._values = values
        self._limits = limits
        self._clock = clock

    @property
    def form_ids(self) -> list[str]:
        """The forms that were written to, in the alphabet's order."""
        return sorted(names_under(self._values, _FORM))

    @property
    def dirty_forms(self) -> list[str]:
        """Those with data that were not marked as saved, in the alphabet's order."""
        return [form_id for form_id in self.form_ids if self.form(form_id).is_dirty]

    def form(self, form_id: str) -> FormState:
        """The form of this name; looking at it makes none."""
        return FormState(self._values, form_id, limits=self._limits, clock=self._clock)

    def form_of_snapshot(self, snapshot_id: str) -> FormState | None:
        """The form that has this snapshot, or None."""
        forms = (self.form(form_id) for form_id in names_under(self._values, _SNAPSHOTS))
        return next((one for one in forms if any(s.snapshot_id == snapshot_id for s in one.snapshots)), None)


def _stored(snapshot: FormSnapshot) -> dict[str, JsonValue]:
    return {name: value for name, value in snapshot._asdict().items() if name != "form_id"}


def _digest(data: Mapping[str, JsonValue]) -> str:
    """The same for equal data, whatever the order of the fields."""
    return blake2b(encode_value("data", dict(sorted(data.items()))), digest_size=16).hexdigest()


_NO_DATA: Final = _digest({})
