"""A bounded slice of the attack on cookies through every entrance; `make campaign` sends millions.

Each attack has wrong codecs beside it that the same attack must find out.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from session_middleware import MemoryBackend
from tests.security.cookies import (
    CONTROLS,
    KEY,
    KINDS,
    Figures,
    Headers,
    Kind,
    Stage,
    attack,
    crossed,
    forgeries,
    sent_as,
    staged,
    strangers,
)
from tests.test_cookies import OLD_KEY, OLDER_KEY, mutants, spoofed_headers
from tests.test_cookies import codec as codec_of
from tests.test_cookies import splits as split_ways

ROOT = Path(__file__).parents[2]
KEYS = (KEY, OLD_KEY, OLDER_KEY)
ONE_IN = {"asgi": 1, "eager": 2, "wsgi": 2, "flask": 7}  # of so many mutants; all of them in the campaign
HOST = "__Host-session"
each_entrance = pytest.mark.parametrize("kind", KINDS)


def assert_withstood(figures: Figures, *, sent: int, harmless: int = 0) -> None:
    assert (figures.accepted[:3], figures.calls, figures.missed[:3]) == ([], 0, [])
    assert figures.sent >= sent
    assert figures.harmless >= harmless  # they were let in, so the attack reached somebody who is at home


# --- mutants and forgeries ---


@each_entrance
def test_no_mutant_of_a_cookie_or_a_promise_is_let_in_or_costs_a_backend_call(kind: Kind) -> None:
    with staged(kind) as stage:
        value, promise = stage.cookie_and_promise()
        sent = itertools.chain(mutants(value), itertools.islice(mutants(promise), 0, None, 10))
        some = itertools.islice(sent, 0, None, ONE_IN[kind])
        figures = attack(stage, sent_as(stage, some), {value: "ada", promise: "ada"})
    assert_withstood(figures, sent=9_000, harmless=20)  # a space around it belongs to no cookie


@each_entrance
def test_nothing_that_two_cookies_exchange_is_let_in(kind: Kind) -> None:
    with staged(kind) as stage:
        value, other = stage.cookie("ada"), stage.cookie("bob")
        figures = attack(stage, sent_as(stage, crossed(value, other)), {value: "ada", other: "bob"})
    assert_withstood(figures, sent=340, harmless=2)


@each_entrance
def test_no_forgery_made_at_random_is_let_in(kind: Kind) -> None:
    with staged(kind) as stage:
        value, other = stage.cookie("ada"), stage.cookie("bob")
        forged = itertools.islice(forgeries(Random(2026), value, other), 3_000)
        figures = attack(stage, sent_as(stage, forged), {value: "ada", other: "bob"})
    assert_withstood(figures, sent=3_000)


@each_entrance
def test_what_other_salts_digests_and_serializers_make_with_the_same_key_is_not_let_in(kind: Kind) -> None:
    with staged(kind) as stage:
        value, promise = stage.cookie_and_promise()
        figures = attack(stage, sent_as(stage, strangers(KEY, value)), {value: "ada", promise: "ada"})
    assert_withstood(figures, sent=2_000, harmless=4)  # each also cut to its own length


@pytest.mark.parametrize("kind", ["asgi", "eager", "wsgi"])
def test_a_middleware_that_verifies_as_a_plain_signer_does_is_found_out(kind: Kind) -> None:
    with staged(kind, codec=CONTROLS["signer"]) as stage:
        value = stage.cookie()
        figures = attack(stage, sent_as(stage, mutants(value)), {value: "ada"})
    assert len({header for (header,) in figures.accepted}) >= 5
    assert figures.calls >= 5
    assert not figures.withstood


# --- keys ---


def orders() -> Iterator[tuple[str, ...]]:
    """Every choice of keys in every order: the first signs, the others are fallbacks."""
    for number in range(1, len(KEYS) + 1):
        yield from itertools.permutations(KEYS, number)


@each_entrance
def test_in_every_order_of_keys_a_cookie_is_let_in_exactly_if_its_key_is_there(kind: Kind) -> None:
    backend = MemoryBackend()
    cookies = {}
    for key in KEYS:
        with staged(kind, [key], backend=backend) as stage:
            cookies[key] = stage.cookie()
    for order in orders():
        with staged(kind, order, backend=backend) as stage:
            seen = {key: stage.visit(b"session=" + value) for key, value in cookies.items()}
        assert seen == {key: ("ada", 1) if key in order else ("", 0) for key in KEYS}


# --- several cookies of our name ---


def duplicates(stage: Stage, values: Sequence[bytes], most_headers: int) -> Iterator[Headers]:
    """These cookies in every order, over one header and over more."""
    for order in itertools.permutations(values):
        pairs = tuple((stage.name + b"=" + value).decode("latin-1") for value in order)
        for headers in split_ways(("a=b", *pairs)):
            if len(headers) <= most_headers:
                yield tuple(header.encode("latin-1") for header in headers)


@each_entrance
def test_a_cookie_among_forged_ones_is_let_in_in_every_order_and_over_several_headers(kind: Kind) -> None:
    with staged(kind) as stage:
        value = stage.cookie()
        forged = codec_of(OLD_KEY).sign(stage.codec.verify(value)).encode()
        requests = list(duplicates(stage, [b"x", value, forged, value[:-1] + b"="], 9))
        figures = attack(stage, requests, {value: "ada"})
        assert {calls for _, _, calls in stage.visits(requests)} == {1}
    assert_withstood(figures, sent=384, harmless=384)


@each_entrance
def test_forged_cookies_alone_are_not_let_in_however_many_there_are(kind: Kind) -> None:
    with staged(kind) as stage:
        value = stage.cookie()
        forged = [value[:-1] + b"=", value + b"=", b"null", value.swapcase()]
        many = [(b"; ".join(stage.name + b"=" + each for each in forged * 300),)]
        figures = attack(stage, [*duplicates(stage, forged, 3), *many], {value: "ada"})
    assert_withstood(figures, sent=200)


@each_entrance
def test_cookies_of_two_users_let_nobody_in_in_any_order(kind: Kind) -> None:
    with staged(kind) as stage:
        values = [stage.cookie("ada"), stage.cookie("bob"), b"x"]
        seen = {seen for _, seen, _ in stage.visits(duplicates(stage, values, 9))}
    assert seen == {""}


# --- names that are nearly ours ---


@each_entrance
def test_no_name_that_only_looks_like_ours_is_let_in(kind: Kind) -> None:
    with staged(kind, name=HOST) as stage:
        value = stage.cookie()
        spoofed = ((header,) for header in spoofed_headers(HOST.encode(), value))
        figures = attack(stage, spoofed, {value: "ada"})
        assert stage.visit(HOST.encode() + b"=" + value) == ("ada", 1)
    assert_withstood(figures, sent=2_000)


@pytest.mark.parametrize("kind", ["asgi", "eager", "wsgi"])
@pytest.mark.parametrize("control", ["latin-1", "utf-8", "case"])
def test_a_parser_that_takes_other_names_for_ours_is_found_out(control: str, kind: Kind) -> None:
    with staged(kind, name=HOST, codec=CONTROLS[control]) as stage:
        value = stage.cookie()
        spoofed = ((header,) for header in spoofed_headers(HOST.encode(), value))
        figures = attack(stage, spoofed, {value: "ada"})
    assert len(figures.accepted) >= 5
    assert not figures.withstood


# --- the campaign ---


@pytest.mark.campaign
def test_a_million_forgeries_at_each_entrance_let_nobody_in() -> None:
    assert campaign("--seed", "2026", "--count", "1000000") == 0


@pytest.mark.campaign
def test_the_campaign_finds_a_plain_signer_out() -> None:
    assert campaign("--seed", "2026", "--count", "1000", "--control", "signer") == 0


def campaign(*arguments: str) -> int:
    command = [sys.executable, "-m", "tests.security.cookies", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    return done.returncode
