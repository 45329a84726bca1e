"""How to turn one state of a form into another, and back: what undo and redo keep. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from session_middleware.values import JsonValue, encode_value

__all__ = ["bounded", "patched", "step_between"]


def step_between(now: Mapping[str, JsonValue], then: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The step that makes *then* of *now*: `{"set": {field: value}, "unset": [field]}`."""
    changed = {name: deepcopy(value) for name, value in then.items() if name not in now or now[name] != value}
    gone: list[Any] = [name for name in now if name not in then]
    return {"set": changed, "unset": gone}


def patched(data: Mapping[str, JsonValue], step: Mapping[str, Any]) -> dict[str, JsonValue]:
    """What *step* makes of *data*."""
    kept = {name: value for name, value in data.items() if name not in step["unset"]}
    return {**kept, **deepcopy(step["set"])}


def bounded(items: Sequence[JsonValue], *, most: int, max_bytes: int) -> list[JsonValue]:
    """The newest (last) of *items*: at most so many, and so many bytes of JSON together."""
    kept: list[JsonValue] = []
    room = max_bytes
    for item in reversed(items[-most:]):
        room -= len(encode_value("item", item))
        if room < 0:
            break
        kept.insert(0, item)
    return kept
