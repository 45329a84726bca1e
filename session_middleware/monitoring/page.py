"""The report as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere.

It is built as a tree, so whatever a log line holds is only ever text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from session_middleware.monitoring.summary import (
    Moment,
    alerts_in,
    every_hour,
    most_first,
    shown,
    troubles,
    what_was_read,
)

__all__ = ["page"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --ground: #ffffff; --line: #d1d9e0;
  --one: #0969da; --two: #bf8700; --bad: #cf222e; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --ground: #0d1117;
  --line: #3d444d; --one: #4493f8; --two: #d29922; --bad: #f85149; --good: #3fb950; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { color: var(--soft); margin: .25rem 0; }
.healthy { color: var(--good); } .warning { color: var(--two); } .critical { color: var(--bad); }
.unknown { color: var(--soft); }
section { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0 2.5rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .5rem .2rem 0; text-align: left;
  border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.figure, th.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 11px; }
svg .one { fill: var(--one); } svg .two { fill: var(--two); } svg .axis { stroke: var(--line); }
"""
_WIDTH: Final = 900
_HEIGHT: Final = 160
_LEFT: Final = 50
_BOTTOM: Final = 20
_BARS: Final = 336  # of a plot: two weeks of hours; of a longer log several hours are one bar
_ROWS: Final = 20
_TABLES: Final = (
    ("Ended, by reason", "ended"),
    ("Lost writes, by reason", "lost_writes"),
    ("Errors, by type", "errors"),
    ("Suspicious activity, by type", "suspicious"),
    ("Busiest users, by events", "by_user"),
    ("Events", "totals"),
)
_PLOTS: Final = (
    ("Requests an hour", "requests", "one"),
    ("Sessions created an hour", "created", "one"),
    ("Sign-ins an hour", "logins", "one"),
    ("Sessions ended an hour", "ended", "one"),
    ("Suspicious activity an hour", "suspicious", "two"),
    ("Failures an hour", "failed", "two"),
)


def page(figures: Mapping[str, Any], moment: Moment) -> str:
    """The whole page; *figures* are the statistics, with `health`, `lines` and `alert_history`."""
    health = figures["health"]
    html = Element("html", lang="en")
    head, body = SubElement(html, "head"), SubElement(html, "body")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    SubElement(head, "title").text = "Sessions"
    SubElement(head, "style").text = _STYLE
    _verdict(body, health)
    _say(body, "p", what_was_read(figures, moment))
    _tiles(body, figures)
    hours = every_hour(figures)
    for title, kind, colour in _PLOTS:
        _plot(body, title, [(hour.start, hour.counts.get(kind, 0)) for hour in hours], colour)
    if history := alerts_in(figures, moment):
        _table(body, "Alerts", (), history)
    _checks(body, health)
    _durations(body, figures)
    tables = SubElement(body, "section")
    for title, name in _TABLES:
        _counts(tables, title, figures[name])
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html")


def _verdict(body: Element, health: Mapping[str, Any]) -> None:
    heading = _say(body, "h1", "Sessions: ")
    _say(heading, "span", health["status"], health["status"])
    for name, check in troubles(health):
        line = SubElement(body, "p")
        _say(line, "strong", f"{name} {shown(check['value'])} {check['unit']}", check["status"])
        _say(line, "span", f". {check['what_to_do']}")


def _tiles(body: Element, figures: Mapping[str, Any]) -> None:
    _table(
        body,
        "Figures",
        ("", "created", "ended", "live at the end", "sign-ins", "users", "different sessions"),
        [
            (
                "sessions",
                figures["created"],
                sum(figures["ended"].values()),
                figures["active_sessions"],
                figures["totals"].get("session_user_bound", 0),
                figures["distinct_users"],
                figures["distinct_sessions"],
            )
        ],
    )


def _checks(body: Element, health: Mapping[str, Any]) -> None:
    table = _table_in(body, "Checks", ("", "status", "value", "unit", "warning above", "critical above"))
    for name, check in health["checks"].items():
        row = SubElement(table, "tr")
        _say(row, "td", name)
        _say(row, "td", check["status"], check["status"])
        for value in (check["value"], check["unit"], *check["threshold"].values()):
            _say(row, "td", shown(value))


def _durations(body: Element, figures: Mapping[str, Any]) -> None:
    parts = ("count", "mean", "p50", "p95", "p99", "max")
    rows = [(name, *(one[part] for part in parts)) for name, one in figures["durations"].items()]
    if rows:
        _table(body, "Measured (seconds, but for numbers of sessions)", ("", *parts), rows)


def _counts(body: Element, title: str, counts: Mapping[str, int]) -> None:
    rows: list[tuple[object, ...]] = [*most_first(counts)]
    if not rows:
        return
    more = [(f"and {len(rows) - _ROWS} more", None)] if len(rows) > _ROWS else []
    _table(SubElement(body, "div"), title, (), [*rows[:_ROWS], *more])


def _table(body: Element, title: str, names: Iterable[str], rows: Iterable[tuple[object, ...]]) -> None:
    """The first of a row is its name, the others are figures."""
    table = _table_in(body, title, names, "figure")
    for first, *rest in rows:
        row = SubElement(table, "tr")
        _say(row, "td", str(first))
        for value in rest:
            _say(row, "td", "" if value is None else shown(value), "figure")


def _table_in(body: Element, title: str, names: Iterable[str], kind: str = "") -> Element:
    _say(body, "h2", title)
    table = SubElement(body, "table")
    if listed := list(names):
        row = SubElement(table, "tr")
        for name in listed:
            _say(row, "th", name, kind)
    return table


def _plot(body: Element, title: str, points: list[tuple[str, int]], colour: str) -> None:
    if not any(number for _, number in points):
        return
    _say(body, "h2", title)
    bars = _merged(points)
    most = max(number for _, number in bars)
    svg = SubElement(body, "svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")
    _say(svg, "title", f"{title}: at most {shown(most)}")
    high, wide = _HEIGHT - _BOTTOM - 10, (_WIDTH - _LEFT) / len(bars)
    for index, (start, number) in enumerate(bars):
        tall = high * number / most
        bar = SubElement(
            svg,
            "rect",
            {"class": colour, "x": _at(_LEFT + index * wide), "y": _at(10 + high - tall)},
            width=_at(max(0.5, wide * 0.85)),
            height=_at(tall),
        )
        _say(bar, "title", f"{start}: {shown(number)}")
    base = _at(10 + high)
    SubElement(svg, "line", {"class": "axis", "x1": _at(_LEFT), "x2": str(_WIDTH), "y1": base, "y2": base})
    _label(svg, _LEFT - 6, 18, shown(most), "end")
    _label(svg, _LEFT - 6, 10 + high, "0", "end")
    _label(svg, _LEFT, _HEIGHT - 4, _hour(bars[0][0]), "start")
    _label(svg, _WIDTH, _HEIGHT - 4, _hour(bars[-1][0]), "end")


def _merged(points: list[tuple[str, int]]) -> list[tuple[str, int]]:
    size = -(-len(points) // _BARS)
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[0][0], sum(number for _, number in group)) for group in groups]


def _label(svg: Element, x: float, y: float, text: str, anchor: str) -> None:
    _say(svg, "text", text).attrib.update({"x": _at(x), "y": _at(y), "text-anchor": anchor})


def _hour(start: str) -> str:
    return start[:16].replace("T", " ")


def _at(value: float) -> str:
    return f"{value:.1f}"


def _say(parent: Element, tag: str, text: str, kind: str = "") -> Element:
    element = SubElement(parent, tag, {"class": kind} if kind else {})
    element.text = _legal(text)
    return element


def _legal(text: str) -> str:
    """Without what HTML has no way to write."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
