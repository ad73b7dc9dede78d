import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.responses import Response

from scheduler.page.session import LASTS_SECONDS, NAME, Session, over_tls

TOKEN = "planted-token-of-the-page"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def headers(value: str) -> Headers:
    return Headers({"cookie": f"other=1; {NAME}={value}; more=2"})


def test_a_session_lets_in_until_it_ends() -> None:
    clock = Clock()
    session = Session(TOKEN, clock)
    given = headers(session.value())
    assert session.caller(given) == "session"
    clock.now += LASTS_SECONDS - 1
    assert session.caller(given) == "session"
    clock.now += 2
    assert session.caller(given) is None
    assert not session.shown(given)


def test_every_scheduler_with_the_token_takes_it_and_none_with_another() -> None:
    given = headers(Session(TOKEN).value())
    assert Session(TOKEN).caller(given) == "session"
    assert Session(TOKEN + "x").caller(given) is None


def test_the_cookie_tells_nothing_of_the_token() -> None:
    session = Session(TOKEN)
    value = session.value()
    version, until, seal = value.split(".")
    assert TOKEN not in value
    assert TOKEN not in repr(session)
    assert seal != hmac.new(TOKEN.encode(), f"{version}.{until}".encode(), hashlib.sha256).hexdigest()


def test_what_was_changed_or_made_up_is_refused() -> None:
    session = Session(TOKEN)
    version, until, seal = session.value().split(".")
    for wrong in (
        f"{version}.{int(until) + 1}.{seal}",
        f"2.{until}.{seal}",
        f"{version}.{until}.{seal[:-1]}",
        f"{version}.{until}.",
        f"{version}.{until}",
        f"{version}.{'9' * 50}.{seal}",
        f"{version}.-1.{seal}",
        f"{version}.\u0661.{seal}",
        "",
        "...",
    ):
        assert session.caller(Headers(raw=[(b"cookie", f"{NAME}={wrong}".encode())])) is None, wrong
    assert session.caller(Headers({})) is None


def test_the_cookie_is_kept_from_scripts_and_other_sites_and_with_tls_from_the_rest() -> None:
    for secure in (False, True):
        answer = Response()
        Session(TOKEN).begin(answer, secure=secure)
        told = answer.headers["set-cookie"].lower()
        assert "; httponly" in told
        assert "; samesite=strict" in told
        assert "; path=/" in told
        assert f"; max-age={LASTS_SECONDS}" in told
        assert ("; secure" in told) is secure


def test_tls_in_front_is_told_by_the_browser() -> None:
    assert over_tls(Headers({}), "https")
    assert over_tls(Headers({"origin": "https://vizfetch.example"}), "http")
    assert not over_tls(Headers({"origin": "http://vizfetch.example"}), "http")
    assert not over_tls(Headers({"x-forwarded-proto": "https"}), "http")
