"""The job example under a real server: one tab begins, another watches to the end."""

from pathlib import Path

import httpx

from tests.test_examples import served


def test_another_tab_watches_the_job_to_its_end(tmp_path: Path) -> None:
    with served("fastapi_job", tmp_path) as address, httpx.Client(timeout=20, trust_env=False) as tab:
        assert tab.get(f"{address}/job/events").status_code == 404
        assert tab.post(f"{address}/job").json() == {"watch": "/job/events"}
        other = httpx.Client(timeout=20, trust_env=False, cookies=tab.cookies)
        with other:
            text = other.get(f"{address}/job/events").text
        me = tab.get(f"{address}/me").json()
    assert "event: progress" in text
    assert text.rstrip().endswith('{"reason":"completed"}')
    assert (me["status"], me["progress"]["percentage"]) == ("completed", 100.0)
    assert me["results"] == {"1": "scene 1", "2": "scene 2", "3": "scene 3"}
