"""The values of a session as an object of a class of yours: checked on load, compared on save.

    class Shop(msgspec.Struct):
        cart: list[Item] = []
        visits: int = 0

    shop = bind_model(request.session, Shop)
    shop.cart.append(Item("tea"))       # saved with the session, like any other change

Reading order: `bind_model`, `View` (load once, write back at every commit), then the two forms: how the
values of a session become a model and back, by msgspec (structs, dataclasses) or by pydantic.

Each field is one key of the session, under its own name (a struct's `rename` counts, pydantic's aliases do
not). Keys that are no field are left alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from functools import cache, partial
from typing import Any, Generic, Protocol, TypeVar, cast
from uuid import UUID

import msgspec

from session_middleware.errors import ConfigurationError, SessionDataError
from session_middleware.session import Session
from session_middleware.values import JsonValue, encode_value

__all__ = ["Form", "View", "bind_model", "form_of"]

M = TypeVar("M")
T = TypeVar("T")


def bind_model(session: Session, model: type[M]) -> M:
    """The values of *session* as a *model*; what is changed in it is saved when the session is.

    A key that the session lacks gets the field's default, which is not stored until it is changed. Bound
    twice, the same object comes back. Where the handler changed a key both here and in the session, this
    object wins. A `logout()` afterwards takes its changes along.

    Raises `SessionDataError` naming the key if a value does not fit, here and at commit (so that no visitor
    is stuck with values that do not load). Raises `ConfigurationError` if *model* is not of a kind that can
    be bound, or has a field without a default.
    """
    form = form_of(model)
    life = session.life
    for one in life.before_commit:
        if isinstance(one, View) and one.form is form and one.after_logout == life.ended:
            return cast("M", one.model)
    view = View(session, form)
    life.before_commit = (*life.before_commit, view)
    return view.model


class View(Generic[M]):
    """One model over one session. Called by every commit: writes what changed in it into the session."""

    __slots__ = ("after_logout", "form", "model", "seen", "session")

    def __init__(self, session: Session, form: Form[M]) -> None:
        self.session = session
        self.form = form
        self.after_logout = session.life.ended
        self.model = form.load({name: session[name] for name in form.names if name in session})
        self.seen = _encoded(form.dump(self.model))
        """What the model held when it last agreed with the session, encoded."""

    def __call__(self) -> None:
        """Raises `SessionDataError` for a value that the model would not load again."""
        values = self.form.dump(self.model)
        found = _encoded(values)
        if found == self.seen:
            return
        lost = self.session.life.ended and not self.after_logout  # the logout took what was changed before it
        if not lost:
            self.form.load(values)
            self._write(values, found)
        self.seen = found

    def _write(self, values: Mapping[str, JsonValue], found: Mapping[str, bytes]) -> None:
        for name, encoded in found.items():
            if self.seen.get(name) != encoded:
                self._assign(name, values[name])
        for name in self.seen.keys() - found.keys():
            self.session.pop(name, None)

    def _assign(self, name: str, value: JsonValue) -> None:
        session = self.session
        if not session.life.late:
            session[name] = value
            return
        # A privilege comes too late now. The plan refuses it with an event; an error here would reach nobody.
        session.mark_modified()
        (session.life.increments or {}).pop(name, None)
        dict.__setitem__(session, name, value)


def _encoded(values: Mapping[str, JsonValue]) -> dict[str, bytes]:
    return {name: encode_value(name, value) for name, value in values.items()}


class Form(Protocol[M]):
    """How values of a session become a model, and back. Both raise `SessionDataError` naming the key."""

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of the session that are fields of the model."""
        ...

    def load(self, values: dict[str, JsonValue], /) -> M:
        """A new model; fields without a value get their defaults."""
        ...

    def dump(self, model: M, /) -> dict[str, JsonValue]:
        """The fields as values that a session can hold."""
        ...


def form_of(model: type[M]) -> Form[M]:
    """The form of this class, one for each. Raises `ConfigurationError` for one that cannot be bound."""
    wanted: Any = model
    if not isinstance(wanted, type):
        raise _unfit_class(wanted)
    return cast("Form[M]", _form_of(wanted))


@cache
def _form_of(model: type) -> Form[Any]:
    if issubclass(model, msgspec.Struct):
        return _form_of_struct(model)
    if hasattr(model, "model_validate_json"):
        fields = _fields_of(model)
        _refuse_required(model, (name for name, field in fields.items() if field.is_required()))
        return _PydanticForm(model)
    if dataclasses.is_dataclass(model):
        attributes = [field for field in dataclasses.fields(model) if field.init]
        _refuse_required(model, (field.name for field in attributes if _has_no_default(field)))
        return _MsgspecForm(model, {field.name: field.name for field in attributes})
    raise _unfit_class(model)


def _form_of_struct(model: type[msgspec.Struct]) -> Form[Any]:
    if model.__struct_config__.array_like:
        raise ConfigurationError(f"{model.__name__}: fields of array_like structs have no keys; leave it out")
    fields = msgspec.structs.fields(model)
    _refuse_required(model, (field.name for field in fields if field.required))
    return _MsgspecForm(model, {field.encode_name: field.name for field in fields})


def _fields_of(model: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", model.model_fields)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _refuse_required(model: type, names: Iterable[str]) -> None:
    for name in names:
        raise ConfigurationError(
            f"{model.__name__}.{name} needs a default: the session of a new visitor is empty"
        )


def _unfit_class(model: object) -> ConfigurationError:
    return ConfigurationError(f"{model!r}: pass a msgspec.Struct, a pydantic BaseModel or a dataclass")


# --- msgspec -------------------------------------------------------------------------------------------


class _MsgspecForm(Generic[M]):
    """Structs and dataclasses. What a session holds anyway (datetime, UUID, …) stays what it is."""

    def __init__(self, model: type[M], attributes: dict[str, str]) -> None:
        """*attributes*: name in the session → name in the model."""
        self._model = model
        self._attributes = attributes
        self.names = tuple(attributes)

    def load(self, values: dict[str, JsonValue]) -> M:
        try:
            return msgspec.convert(values, self._model, str_keys=True)
        except msgspec.ValidationError as problem:
            message = str(problem)
        reason = message.partition(" - at ")[0] if _tells_no_value(message) else None
        raise _misfit(self._model, _key_in(message), reason)

    def dump(self, model: M) -> dict[str, JsonValue]:
        found = {name: getattr(model, attribute) for name, attribute in self._attributes.items()}
        return {name: self._plain(name, value) for name, value in found.items() if value is not msgspec.UNSET}

    def _plain(self, name: str, value: object) -> JsonValue:
        if isinstance(value, str) and hasattr(value, "__html__"):
            return value  # safe HTML, which a session holds as such
        return _written(self._model, name, partial(_to_builtins, value))


_to_builtins = partial(
    msgspec.to_builtins, builtin_types=(bytes, datetime, date, UUID, Decimal), str_keys=True
)


def _key_in(message: str) -> str | None:
    """The field that msgspec complains about: `… - at `$.cart[0].price``, or a missing one."""
    found = re.search(r"`\$\.([^.\[`]+)", message) or re.search(r"required field `([^`]+)`$", message)
    return None if found is None else found[1]


def _tells_no_value(message: str) -> bool:
    """False for messages that may quote the value: of enums, of the model's own checks."""
    return message.startswith(("Expected `", "Object missing required field"))


# --- pydantic ------------------------------------------------------------------------------------------


class _PydanticForm(Generic[M]):
    """Models, through JSON: a strict model takes text for its dates, and what is kept is what it writes."""

    def __init__(self, model: type[M]) -> None:
        self._model: Any = model
        self.names = tuple(_fields_of(model))

    def load(self, values: dict[str, JsonValue]) -> M:
        from pydantic import ValidationError  # noqa: PLC0415  (optional: comes with FastAPI)
        from pydantic_core import to_json  # noqa: PLC0415  (as above)

        plain = {name: self._written(name, to_json, value) for name, value in values.items()}
        text = b"{%b}" % b",".join(b"%b:%b" % (to_json(name), value) for name, value in plain.items())
        try:
            return cast("M", self._model.model_validate_json(text, by_name=True, by_alias=False))
        except ValidationError as problem:
            first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        key = str(first["loc"][0]) if first["loc"] else None
        own = first["type"] in {"value_error", "assertion_error"}  # the model's own text may quote the value
        raise _misfit(self._model, key, None if own else first["msg"])

    def dump(self, model: M) -> dict[str, JsonValue]:
        try:
            return self._dumped(model)
        except ValueError:  # pydantic's, which quotes the value and names no field
            pass
        for name in self.names:
            self._written(name, self._dumped, model, {name})
        raise _misfit(self._model, None, None)

    def _dumped(self, model: Any, include: set[str] | None = None) -> dict[str, JsonValue]:
        dumped = model.model_dump(
            mode="json", include=include, round_trip=True, by_alias=False, warnings="error"
        )
        return cast("dict[str, JsonValue]", dumped)

    def _written(self, name: str, write: Callable[..., T], *args: object) -> T:
        return _written(self._model, name, partial(write, *args))


# --- errors --------------------------------------------------------------------------------------------


def _written(model: type, key: str, write: Callable[[], T]) -> T:
    try:
        return write()
    except (TypeError, ValueError, RecursionError) as problem:
        kind = type(problem).__name__
    raise _misfit(model, key, f"what it holds cannot be written ({kind})")


def _misfit(model: type, key: str | None, reason: str | None) -> SessionDataError:
    """Made outside `except`, so that no traceback shows the cause, which may quote the value."""
    where = "the session" if key is None else f"session[{key!r}]"
    return SessionDataError(f"{where} does not fit {model.__name__}: {reason or 'the model refuses it'}", key)
