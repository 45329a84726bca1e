"""The write budget: what requests cost is counted exactly."""

from __future__ import annotations

from tests.life.harness import Browser, Site

WRITES = {"create", "create_within", "commit", "commit_within", "delete"}


def test_what_requests_cost_is_counted_exactly(site: Site, browser: Browser) -> None:
    cookies = [
        browser.visit(looks=False),
        browser.visit(lambda session: session.get("a")),
        browser.visit(lambda session: session.update(a=1)),
        *[browser.visit(lambda session: session.get("a")) for _ in range(5)],
        browser.visit(lambda session: session.update(a=2)),
        browser.visit(lambda session: session.login("ann")),
        browser.visit(lambda session: session.login("bob")),
        browser.visit(lambda session: session.logout()),
    ]
    metrics = site.manager.get_metrics()
    assert metrics["total_backend_writes"] == sum(name in WRITES for name in site.calls) == 6
    if site.driver == "blocking":  # that harness is no entrance: it counts no requests, and sets no cookies
        return
    assert metrics["total_cookies_set"] == sum(len(response.set_cookies) for response in cookies) == 4
    assert metrics["total_requests"] == len(cookies)
    assert metrics["backend_writes_per_1000_requests"] == 1000 * 6 / len(cookies)
    assert metrics["cookies_set_per_1000_requests"] == 1000 * 4 / len(cookies)


def test_before_the_first_request_there_is_no_share(site: Site) -> None:
    metrics = site.manager.get_metrics()
    assert metrics["total_requests"] == 0
    assert metrics["backend_writes_per_1000_requests"] is None
    assert metrics["cookies_set_per_1000_requests"] is None
