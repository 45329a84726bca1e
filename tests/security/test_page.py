"""The page on security names tests that exist: a promise without one would be an opinion."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"\[([^\]]+)\]\(\.\./(tests/[^)]+)\)", PAGE)


def test_each_test_that_is_named_is_there() -> None:
    missing = [
        f"{name} in {path}"
        for name, path in SHOWN
        if f"def test_{name.replace(' ', '_')}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []
    assert len(SHOWN) > 40


def test_every_item_of_chapter_7_and_of_the_testing_guide_is_answered() -> None:
    items = re.findall(r"^\| (7\.\d\.\d) [^|]+\|[^|]*\| *([^|]*?) *\|$", PAGE, re.MULTILINE)
    assert [item for item, _ in items] == [
        *(f"7.1.{n}" for n in range(1, 4)),
        *(f"7.2.{n}" for n in range(1, 5)),
        *(f"7.3.{n}" for n in range(1, 3)),
        *(f"7.4.{n}" for n in range(1, 6)),
        *(f"7.5.{n}" for n in range(1, 4)),
        *(f"7.6.{n}" for n in range(1, 3)),
    ]
    assert all(answer for _, answer in items)
    assert re.findall(r"^\| SESS-(\d\d) ", PAGE, re.MULTILINE) == [f"{n:02d}" for n in range(1, 12)]
