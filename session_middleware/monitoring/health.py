"""The health report: each check with its value, the threshold, and what to do where it is not well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["health_report"]


@dataclass(frozen=True, slots=True)
class _Check:
    """A gauge, the values above which it is a warning and critical, and the remedy."""

    gauge: str
    warning: float
    critical: float
    unit: str
    what_to_do: str


_CHECKS: Final = (
    _Check("backend_down", 0.5, 0.5, "0 or 1", "See that the backend runs and can be reached."),
    _Check("backend_latency", 0.1, 1.0, "s", "Look at the backend's load, its disk and the way to it."),
    _Check("utilization", 0.7, 0.9, "of 1", "Raise max_sessions, or shorten idle_timeout."),
    _Check("stuck_sessions", 0, 10, "sessions", "get_stuck_sessions() lists them; recover or fail each."),
    _Check("cleanup_age", 900, 3600, "s", "Start the manager, or run cleanup_expired() from a timer."),
    _Check("error_rate", 6, 30, "per minute", "Look at `errors` in the statistics."),
    _Check("suspicious_rate", 12, 60, "per minute", "Look at `suspicious` in the statistics; block clients."),
    _Check("lost_writes", 0, 2, "per minute", "Look at `lost_writes` in the statistics for the reasons."),
    _Check("events_dropped", 0, 1_000_000, "events", "Only their totals are known: raise queue_size."),
)
_ORDER: Final = ("healthy", "warning", "critical")


def health_report(
    gauges: Mapping[str, float | None], alerts: list[dict[str, object]], now: float
) -> dict[str, Any]:
    """`status`, `checks` by name, the alerts that hold. A gauge that nobody knows has status `unknown`."""
    checks = {check.gauge: _judged(check, gauges.get(check.gauge)) for check in _CHECKS}
    known = [each["status"] for each in checks.values() if each["status"] != "unknown"]
    worst = max([*known, "healthy", *(["warning"] if alerts else [])], key=_ORDER.index)
    return {"status": worst, "timestamp": now, "checks": checks, "alerts": alerts}


def _judged(check: _Check, value: float | None) -> dict[str, Any]:
    status = "unknown"
    if value is not None:
        status = _ORDER[(value > check.warning) + (value > check.critical)]
    return {
        "status": status,
        "value": value,
        "threshold": {"warning": check.warning, "critical": check.critical},
        "unit": check.unit,
        "what_to_do": check.what_to_do if status in _ORDER[1:] else "",
    }
