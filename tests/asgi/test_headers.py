"""Vary, Cache-Control and Set-Cookie of a response."""

import pytest

from session_middleware.headers import Headers, forbid_storing, is_local, vary_by_cookie
from tests.asgi.conftest import MakeSite
from tests.asgi.harness import Site, page, put

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [(b"vary", b"Cookie")]),
        ([(b"Vary", b"Accept")], [(b"Vary", b"Accept, Cookie")]),
        ([(b"vary", b"")], [(b"vary", b"Cookie")]),
        ([(b"vary", b"accept, COOKIE")], [(b"vary", b"accept, COOKIE")]),
        ([(b"vary", b"*")], [(b"vary", b"*")]),
        ([(b"vary", b"X-Cookie")], [(b"vary", b"X-Cookie, Cookie")]),
    ],
)
def test_vary_names_cookie_once(before: Headers, after: Headers) -> None:
    headers = list(before)
    vary_by_cookie(headers)
    assert headers == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [(b"cache-control", b"no-store")]),
        ([(b"Cache-Control", b"public, max-age=60")], [(b"cache-control", b"no-store")]),
        ([(b"cache-control", b"Private, max-age=60")], [(b"cache-control", b"Private, max-age=60")]),
        ([(b"cache-control", b"no-store")], [(b"cache-control", b"no-store")]),
    ],
)
def test_a_response_with_a_cookie_is_stored_by_no_shared_cache(before: Headers, after: Headers) -> None:
    headers = list(before)
    forbid_storing(headers)
    assert headers == after


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "app.localhost", "127.0.0.1:80", "[::1]:80", ""]
)
def test_this_machine_is_local(host: str) -> None:
    assert is_local(host.encode())


@pytest.mark.parametrize(
    "host", ["localhost.evil.example", "127.0.0.1.evil.example", "example.com", "[::1:2]"]
)
def test_what_looks_like_this_machine_is_not(host: str) -> None:
    assert not is_local(host.encode())


async def test_an_untouched_session_leaves_the_response_as_it_is(site: Site) -> None:
    await site.visit(page(put(n=1)))
    answer = await site.visit(page(headers=[(b"cache-control", b"public")]))
    assert answer.headers == [(b"cache-control", b"public")]


async def test_a_look_makes_the_response_vary_by_cookie(site: Site) -> None:
    answer = await site.visit(page(lambda session: session.get("n")))
    assert (answer.all("vary"), answer.all("set-cookie"), answer.all("cache-control")) == (["Cookie"], [], [])


async def test_with_a_cookie_nothing_may_be_stored(site: Site) -> None:
    answer = await site.visit(page(put(n=1), headers=[(b"cache-control", b"public, max-age=60")]))
    assert answer.header("cache-control") == "no-store"
    assert answer.header("vary") == "Cookie"


async def test_the_apps_own_private_is_kept(site: Site) -> None:
    answer = await site.visit(page(put(n=1), headers=[(b"cache-control", b"private, max-age=5")]))
    assert answer.header("cache-control") == "private, max-age=5"


async def test_a_response_never_sets_our_cookie_twice(site: Site) -> None:
    others = [
        (b"Set-Cookie", b"session=forged; path=/"),
        (b"set-cookie", b"theme=dark"),
        (b"set-cookie", b"sessions=1"),
    ]
    answer = await site.visit(page(put(n=1), headers=others))
    names = [cookie.partition("=")[0] for cookie in answer.all("set-cookie")]
    assert sorted(names) == ["session", "sessions", "theme"]
    assert "forged" not in str(answer.headers)


async def test_where_we_set_none_the_apps_cookie_stays(site: Site) -> None:
    answer = await site.visit(page(headers=[(b"set-cookie", b"session=its-own")]))
    assert answer.set_cookie == "session=its-own"


async def test_the_removal_repeats_every_attribute(make_site: MakeSite) -> None:
    site = make_site(
        session_cookie="sid",
        path="/shop",
        domain="example.com",
        same_site="none",
        https_only=True,
        partitioned=True,
    )
    made = (await site.visit(page(put(n=1)))).set_cookie or ""
    removal = (await site.visit(page(lambda session: session.logout()))).set_cookie or ""
    attributes = {part.strip().lower() for part in made.split(";")[1:]} - {"max-age=1209600"}
    assert attributes <= {part.strip().lower() for part in removal.split(";")[1:]}
    assert removal.startswith("sid=")
    assert "1970" in removal
    assert site.client.cookies == {}


@pytest.mark.parametrize(
    ("https_only", "scheme", "secure"),
    [
        (None, "http", False), (None, "https", True), (True, "http", True),
        (True, "https", True), (False, "http", False), (False, "https", False),
    ],
)  # fmt: skip
async def test_secure_follows_the_setting_and_the_scheme(
    make_site: MakeSite, https_only: bool | None, scheme: str, secure: bool
) -> None:
    site = make_site(page(put(n=1)), https_only=https_only)
    answer = await site.new_client(scheme=scheme).get()
    assert ("secure" in (answer.set_cookie or "").lower()) is secure


async def test_plain_http_to_another_host_warns_once(make_site: MakeSite) -> None:
    site = make_site(page(put(n=1)))
    for host in ("localhost", "shop.example", "shop.example", "other.example"):
        await site.new_client(host=host).get()
    assert site.suspicions() == ["insecure_transport"]
    assert "shop.example" in str(site.named("session_suspicious_activity")[0].fields["details"])


@pytest.mark.parametrize(("https_only", "scheme"), [(False, "http"), (None, "https")])
async def test_chosen_or_secure_transport_warns_of_nothing(
    make_site: MakeSite, https_only: bool | None, scheme: str
) -> None:
    site = make_site(page(put(n=1)), https_only=https_only)
    await site.new_client(scheme=scheme, host="shop.example").get()
    assert site.suspicions() == []


async def test_max_age_is_never_longer_than_the_session(make_site: MakeSite) -> None:
    site = make_site(page(put(n=1)), max_age=1000, idle_timeout=5000, absolute_timeout=300)
    assert "Max-Age=300;" in ((await site.client.get()).set_cookie or "")


async def test_a_weak_key_is_told_once_and_never_shown(make_site: MakeSite) -> None:
    site = make_site(page(put(n=1)), secret_key="shorty-key")
    await site.client.get()
    await site.client.get()
    assert site.suspicions() == ["weak_key"]
    assert "shorty-key" not in str(site.events)


async def test_a_good_key_is_no_news(site: Site) -> None:
    await site.visit(page(put(n=1)))
    assert site.suspicions() == []
