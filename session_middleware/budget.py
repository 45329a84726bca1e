"""What requests cost the backend and the network: the write budget."""

from __future__ import annotations

__all__ = ["Budget"]


class Budget:
    """Of one manager in this process. Only ever grows; under the GIL threads lose no `+= 1`.

    requests: that came to an entrance, whether they looked at their session or not.
    writes: calls that change the backend, made for requests: creations, commits, endings.
    cookies: `Set-Cookie` headers of ours, removals included.
    """

    __slots__ = ("cookies", "requests", "writes")

    def __init__(self) -> None:
        self.requests = self.writes = self.cookies = 0

    def figures(self) -> dict[str, int | float | None]:
        """As `get_metrics` shows them; the shares are None before the first request."""
        return {
            "total_requests": self.requests,
            "total_backend_writes": self.writes,
            "total_cookies_set": self.cookies,
            "backend_writes_per_1000_requests": self._per_thousand(self.writes),
            "cookies_set_per_1000_requests": self._per_thousand(self.cookies),
        }

    def _per_thousand(self, number: int) -> float | None:
        return 1000 * number / self.requests if self.requests else None
