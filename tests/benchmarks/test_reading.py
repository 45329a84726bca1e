"""The benchmark of reading logs times what it says, and notices lines that were taken for others."""

import pytest

from tests.benchmarks.reading import lines_a_second, other_lines, our_lines


def test_both_kinds_of_lines_are_counted_as_what_they_are() -> None:
    assert lines_a_second(our_lines(3), other=False, rounds=1) > 0
    assert lines_a_second(other_lines(50), other=True, rounds=1) > 0


def test_lines_that_count_as_something_else_are_told() -> None:
    with pytest.raises(RuntimeError, match="counted"):
        lines_a_second(our_lines(3), other=True, rounds=1)
