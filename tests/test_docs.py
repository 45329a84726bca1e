"""What the docs show runs, and what they list is what the code has."""

import inspect
import re
from pathlib import Path

import pytest

from session_middleware import CookieSettings, Policy, SessionManager, SessionMiddleware
from session_middleware.events import EVENTS, events_table

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
RUN_TOGETHER = [page for page in PAGES if page.name != "logs.md"]  # that one sets up logging, thrice
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


def python_of(page: Path) -> str:
    """Every Python block of a page, each at the line where it stands."""
    lines: list[str] = []
    inside = False
    for line in page.read_text().splitlines():
        fence = line.startswith("```")
        if fence:
            inside = line == "```python"
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


@pytest.mark.parametrize("page", RUN_TOGETHER, ids=lambda page: page.name)
def test_the_code_on_each_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(page), page, "exec", dont_inherit=True), {"__name__": page.stem})  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_events_page_lists_every_event_as_the_code_has_it() -> None:
    assert events_table() in (ROOT / "docs/events.md").read_text()
    assert events_table() in (ROOT / "docs/monitoring.md").read_text()
    assert len(EVENTS) >= 30


def test_the_options_page_names_every_option() -> None:
    page = (ROOT / "docs/options.md").read_text()
    signatures = [
        inspect.signature(one).parameters for one in (SessionMiddleware, SessionManager, CookieSettings)
    ]
    names = {name for parameters in signatures for name in parameters} | set(Policy.__dataclass_fields__)
    missing = {name for name in names - {"app", "options", "clock", "monotonic"} if f"`{name}`" not in page}
    assert missing == set()
