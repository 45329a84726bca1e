"""What a hostile Cookie header costs: it grows with its length, and no faster."""

from __future__ import annotations

import pytest

from tests.security.parsing import (
    SHAPES,
    Parser,
    header_of,
    our_parsers,
    quadratic_in_c,
    quadratic_in_python,
    work,
)

SIZE = 2 * 1024  # bytes: small enough to be counted quickly, large enough for a square to show


def growth(parser: Parser, shape: str) -> float:
    return work(parser, header_of(shape, 2 * SIZE)) / work(parser, header_of(shape, SIZE))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_hostile_header_of_twice_the_length_costs_at_most_twice_the_work(shape: str) -> None:
    for name, parser in our_parsers().items():
        assert growth(parser, shape) <= 2.05, name


@pytest.mark.parametrize("shape", SHAPES)
def test_each_byte_of_a_hostile_header_is_looked_at_a_fixed_number_of_times(shape: str) -> None:
    header = header_of(shape, SIZE)
    for name, parser in our_parsers().items():
        assert work(parser, header) <= 25 * len(header), name


@pytest.mark.parametrize("parser", [quadratic_in_c, quadratic_in_python])
@pytest.mark.parametrize("shape", ["semicolons", "spaces", "backslashes in quotes"])
def test_a_parser_that_looks_at_the_rest_again_for_every_pair_is_found_out(
    parser: Parser, shape: str
) -> None:
    header = header_of(shape, SIZE)
    assert growth(parser, shape) > 3.5
    assert work(parser, header) > 25 * len(header)


def test_the_work_is_the_same_number_each_time() -> None:
    for parser in our_parsers().values():
        assert len({work(parser, header_of("small cookies", SIZE)) for _ in range(3)}) == 1
