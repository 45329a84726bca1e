"""Each app must do what it claims before it is measured, so that one that does nothing cannot win."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from tests.benchmarks.apps import CASES, PAYLOAD, Candidate
from tests.benchmarks.traffic import Answer, Browser, exchange

__all__ = ["ClaimError", "check", "check_still_signed_in", "signed_in"]


class ClaimError(AssertionError):
    """An app does not do what its `Candidate` claims."""


async def check(candidate: Candidate) -> None:
    """Raise `ClaimError` unless the app reads, counts, begins sessions, and sets cookies where it says."""
    if not candidate.has_session:
        for case in CASES:
            _require(candidate, case, await exchange(candidate.app, Browser(), f"/{case}"), b"ignored")
        return
    visitor, other = await signed_in(candidate), await signed_in(candidate)
    _require(candidate, "none", await exchange(candidate.app, Browser(), "/none"), b"ignored")
    _require(candidate, "untouched", await exchange(candidate.app, visitor, "/untouched"), b"ignored")
    for n in (1, 2, 3):
        _require(candidate, "write", await exchange(candidate.app, visitor, "/write"), b"%d" % n)
        _require(candidate, "read", await exchange(candidate.app, visitor, "/read"), b"alice@example.org")
    _require(candidate, "write", await exchange(candidate.app, other, "/write"), b"1")
    await _check_new(candidate)
    await _check_all_is_kept(candidate, visitor)
    await _check_forged(candidate, visitor)


async def signed_in(candidate: Candidate) -> Browser:
    """A visitor whose session holds `PAYLOAD`."""
    browser = Browser()
    await exchange(candidate.app, browser, "/seed")
    if candidate.has_session and browser.cookie is None:
        raise ClaimError(f"{candidate.name}: a visitor who wrote got no cookie")
    return browser


async def check_still_signed_in(candidate: Candidate, visitors: Iterable[Browser]) -> None:
    """Raise `ClaimError` if a visitor's session was lost while it was measured: another case, then."""
    for visitor in visitors if candidate.has_session else ():
        answer = await exchange(candidate.app, visitor, "/read")
        if answer.status != HTTPStatus.OK or answer.body != str(PAYLOAD["user"]).encode():
            raise ClaimError(f"{candidate.name}: a session was lost during the measurement: {answer.body!r}")


async def _check_new(candidate: Candidate) -> None:
    browser = Browser()
    _require(candidate, "new", await exchange(candidate.app, browser, "/new"), b"begun")
    _require(candidate, "write", await exchange(candidate.app, browser, "/write"), b"2")


async def _check_all_is_kept(candidate: Candidate, visitor: Browser) -> None:
    shown = await exchange(candidate.app, visitor, "/show")
    kept = [key for key in PAYLOAD if repr(key).encode() in shown.body]
    if kept != list(PAYLOAD):
        raise ClaimError(f"{candidate.name}: of the session's keys only {kept} are there")


async def _check_forged(candidate: Candidate, visitor: Browser) -> None:
    cookie = visitor.cookie or ""
    forged = Browser(("A" if cookie[:1] != "A" else "B") + cookie[1:])
    answer = await exchange(candidate.app, forged, "/read")
    if answer.body != b"None":
        raise ClaimError(f"{candidate.name}: a cookie that was tampered with opened something")


def _require(candidate: Candidate, case: str, answer: Answer, body: bytes) -> None:
    if answer.status != 200 or answer.body != body:
        raise ClaimError(f"{candidate.name}: {case} answered {answer.status} {answer.body!r}, not {body!r}")
    if bool(answer.set_cookies) is not (case in candidate.sets_cookie):
        found = "a cookie" if answer.set_cookies else "no cookie"
        raise ClaimError(f"{candidate.name}: {case} was answered with {found}, it claims otherwise")
