"""The Flask example does what the other frameworks' examples do."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flask")

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_app.py"


@pytest.fixture(params=["memory://", "sqlite:///"])
def app(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    url = request.param if request.param == "memory://" else f"sqlite:///{tmp_path}/sessions.db"
    monkeypatch.setenv("SESSION_BACKEND", url)
    spec = importlib.util.spec_from_file_location("fresh_flask_app", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 70


def test_it_keeps_visits_and_a_nested_cart_over_a_login(app: Any) -> None:
    client = app.test_client()
    assert [client.get("/me").json["visits"] for _ in range(3)] == [1, 2, 3]
    for name in ("tea", "tea", "cake"):
        added = client.post(f"/cart/{name}").json
    before = client.get_cookie("session").value
    assert client.post("/login/ada").json == {"user": "ada"}
    assert client.get_cookie("session").value != before
    assert client.get("/me").json == {"user": "ada", "visits": 4, "cart": added}


def test_one_device_signs_the_others_out_and_a_logout_is_for_good(app: Any) -> None:
    phone, laptop = app.test_client(), app.test_client()
    assert phone.get("/devices").status_code == 401
    for device in (phone, laptop):
        device.post("/login/ada")
    assert [one["this"] for one in laptop.get("/devices").json].count(True) == 1
    assert phone.delete("/devices").json == {"signed_out": 1}
    assert laptop.get("/me").json["user"] is None
    stolen = phone.get_cookie("session").value
    phone.post("/logout")
    laptop.set_cookie("session", stolen)
    assert laptop.get("/me").json["user"] is None
