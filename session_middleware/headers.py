"""What a session does to the headers of a response, and what the headers of a request tell about it.

Raw ASGI headers throughout: pairs of bytes, the names of a request's in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Headers", "forbid_storing", "host_of", "is_local", "vary_by_cookie", "wants_html"]

Headers = list[tuple[bytes, bytes]]

# RFC 6761 reserves `localhost`; `testserver` is what Starlette's TestClient calls itself.
_LOCAL = re.compile(rb"(?:(?:.+\.)?localhost|127(?:\.\d+){3}|\[::1\]|testserver|)(?::\d*)?", re.IGNORECASE)


def vary_by_cookie(headers: Headers) -> None:
    """Caches must tell visitors apart (CVE-2023-30861). Extends the app's own Vary."""
    for index, (name, value) in enumerate(headers):
        if name.lower() == b"vary":
            listed = [item.strip().lower() for item in value.split(b",")]
            if b"*" not in listed and b"cookie" not in listed:
                headers[index] = (name, value + b", Cookie" if value.strip() else b"Cookie")
            return
    headers.append((b"vary", b"Cookie"))


def forbid_storing(headers: Headers) -> None:
    """No shared cache may keep a response that sets a session cookie."""
    kept = [value.lower() for name, value in headers if name.lower() == b"cache-control"]
    if any(b"private" in value or b"no-store" in value for value in kept):
        return
    headers[:] = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
    headers.append((b"cache-control", b"no-store"))


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The host a request names, with its port; empty where it names none."""
    return next((value for name, value in headers if name == b"host"), b"")


def is_local(host: bytes) -> bool:
    """Whether it is this machine: there, plain http exposes nothing."""
    return _LOCAL.fullmatch(host) is not None


def wants_html(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a browser asks for a page, rather than a script for data."""
    return any(name == b"accept" and b"text/html" in value for name, value in headers)
