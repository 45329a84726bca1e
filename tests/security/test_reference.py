"""Ours and the written rules read the same, whatever is sent; and what reads otherwise is found out."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from session_middleware.cookies import CookieCodec, CookieReading
from tests.security.reference import (
    CHANGE,
    CONTROLS,
    DROP,
    NEXT_HEADER,
    PIECES,
    codec_of,
    disagreement,
    headers_from,
    reference_of,
)
from tests.test_cookies import credential

STEPS = st.integers(0, len(PIECES) - 1) | st.sampled_from([NEXT_HEADER, CHANGE, DROP]) | st.integers(0, 255)
NAMED = PIECES.index(b"; session=")
HEADERS = st.lists(STEPS | st.just(NAMED), max_size=40).map(bytes)


def sent_by_chance(random: Random) -> bytes:
    """A cookie of ours or of others now and then, with some disorder between."""
    steps: list[int] = []
    for _ in range(random.randint(1, 25)):
        steps += [NAMED, random.randrange(len(PIECES))] if random.random() < 0.7 else [random.randrange(256)]
    return bytes(steps)


@given(HEADERS)
@example(bytes([NAMED, 0, NAMED, 1, NAMED, 5, NEXT_HEADER, NAMED, 3]))
@example(bytes([NAMED, 0] * 16 + [NAMED, 3]))
@example(bytes([NAMED, 0] * 15 + [NAMED, 3, NAMED, 1]))
@example(bytes([NAMED, 0, CHANGE, 0, ord("A"), NAMED, 0, DROP, 0]))
def test_ours_and_the_written_rules_read_the_same(data: bytes) -> None:
    for name in ("session", "__Host-session"):
        assert disagreement(codec_of(name=name), reference_of(name), data) is None


def test_ours_and_the_written_rules_read_the_same_in_headers_with_many_cookies() -> None:
    random, ours, reference = Random(2026), codec_of(), reference_of()
    for _ in range(400):
        assert disagreement(ours, reference, sent_by_chance(random)) is None


def test_pieces_and_commands_reach_valid_cookies_and_what_is_a_step_away() -> None:
    assert headers_from(bytes([NAMED, 0, NEXT_HEADER, 200])) == [b"; session=" + PIECES[0], b"\xc8"]
    assert headers_from(bytes([200, 201, CHANGE, 1, 202, DROP, 0])) == [b"\xca"]
    reading = reference_of().read(headers_from(bytes([NAMED, 0, NAMED, 1, NAMED, 4, NAMED, 5])))
    assert reading == CookieReading((credential(1, 6),), (credential(1, 5),), 1)


@pytest.mark.parametrize("kind", CONTROLS.values(), ids=CONTROLS)
def test_a_codec_that_reads_otherwise_is_found_out(kind: type[CookieCodec]) -> None:
    random, wrong, reference = Random(2026), codec_of(kind), reference_of()
    assert any(disagreement(wrong, reference, sent_by_chance(random)) for _ in range(3000))
