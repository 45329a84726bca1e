"""What can be read of damaged values. Only `recover_session` reads them so."""

from __future__ import annotations

import re
from json import JSONDecoder
from typing import Final

from session_middleware.errors import SessionDataError
from session_middleware.values import decode_value

__all__ = ["salvage_values"]

_BLANK: Final = re.compile(r"[ \t\r\n]*")
_scan = JSONDecoder().raw_decode


def salvage_values(packed: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Those values that can be decoded, and the rest: by key, and under "" what belongs to no key.

    Read from the front, up to the first byte that makes no sense. No byte is lost.
    """
    text = packed.decode("utf-8", "surrogateescape")
    whole: dict[str, bytes] = {}
    rest: dict[str, bytes] = {}
    understood = 0
    at = _behind(text, 0, "{")
    while at is not None and (pair := _pair(text, at)) is not None:
        name, value, understood = pair
        (whole if _is_whole(value) else rest)[name] = value
        at = _behind(text, understood, ",")
    tail = text[understood:].strip()
    if tail not in {"", "}", "{}"}:
        rest[""] = _encoded(tail)
    return whole, rest


def _pair(text: str, at: int) -> tuple[str, bytes, int] | None:
    """A key, its value, and where that ends."""
    try:
        name, end = _scan(text, _unblank(text, at))
        start = _behind(text, end, ":")
        if type(name) is not str or start is None:
            return None
        name.encode()
        start = _unblank(text, start)
        end = _scan(text, start)[1]
    except (ValueError, RecursionError):
        return None
    return name, _encoded(text[start:end]), end


def _behind(text: str, at: int, sign: str) -> int | None:
    """The place behind *sign* and the blanks before it; None if it is not there."""
    found = _unblank(text, at)
    return found + 1 if text.startswith(sign, found) else None


def _unblank(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return at if blank is None else blank.end()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _is_whole(value: bytes) -> bool:
    try:
        decode_value(value)
    except SessionDataError:
        return False
    return True
