"""`--via` and the environment's variables: curl's rules, and no password in any text."""

from __future__ import annotations

import pytest

from trunnel.errors import ConfigError, InvalidName
from trunnel.names import ServerAddress
from trunnel.settings.via import Credentials, ViaAddress, ViaKind, is_exempt, masked, via_from_environment

RELAY = ServerAddress("relay.example", 443)


@pytest.mark.parametrize(
    ("text", "kind", "host", "port"),
    [
        ("http://proxy.example:3128", ViaKind.HTTP, "proxy.example", 3128),
        ("HTTP://Proxy.Example", ViaKind.HTTP, "proxy.example", 1080),
        ("proxy.example:3128", ViaKind.HTTP, "proxy.example", 3128),
        (" 10.0.0.1 ", ViaKind.HTTP, "10.0.0.1", 1080),
        ("socks5://10.0.0.1", ViaKind.SOCKS5, "10.0.0.1", 1080),
        ("socks5h://[::1]:9050/", ViaKind.SOCKS5H, "::1", 9050),
        ("socks5h://[::1]", ViaKind.SOCKS5H, "::1", 1080),
        ("localhost", ViaKind.HTTP, "localhost", 1080),
    ],
)
def test_scheme_and_port_have_curls_defaults(text: str, kind: ViaKind, host: str, port: int) -> None:
    assert ViaAddress.parse(text) == ViaAddress(kind=kind, address=ServerAddress(host, port))
    assert ViaAddress.parse(str(ViaAddress.parse(text))) == ViaAddress.parse(text)


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("ann:pw", Credentials("ann", "pw")),
        ("ann", Credentials("ann", "")),
        ("ann:", Credentials("ann", "")),
        ("ann:a:b@c", Credentials("ann", "a:b@c")),
        ("ann:a://b", Credentials("ann", "a://b")),
        ("%C3%A4nn:p%40%25", Credentials("änn", "p@%")),
    ],
)
def test_user_and_password_may_have_escapes(userinfo: str, credentials: Credentials) -> None:
    """RFC 3986 §3.2.1; the last @ ends them, as for curl."""
    for scheme in ("http://", "socks5h://", ""):
        assert ViaAddress.parse(f"{scheme}{userinfo}@proxy:1").credentials == credentials


def test_nothing_before_the_at_is_no_user() -> None:
    assert ViaAddress.parse("http://@proxy:1").credentials is None


@pytest.mark.parametrize(
    "text",
    [
        "https://ann:s3cret@proxy:1",
        "socks4://ann:s3cret@proxy",
        "socks://ann:s3cret@proxy",
        "http://ann:s3cret@",
        "http://ann:s3cret@proxy:70000",
        "http://ann:s3cret@proxy:",
        "http://ann:s3cret@a b",
        "http://ann:s3cret@proxy/path",
        "http://ann:s3cret@::1",
        "http://ann:s3cret@https://proxy",
        "http://:s3cret@proxy",
        "http://ann:s3cret%00@proxy",
        "http://ann%0a:s3cret@proxy",
        "http://ann:s3cret%ff@proxy",
        "http://ann:s3cret\udcff@proxy",
        "http://ann:s3cret" + 255 * "x" + "@proxy",
        "http://a%3ann:s3cret@proxy",
        "ann:s3cret://@proxy:x",
        "s3://ann:s3cret@proxy",
    ],
)
def test_a_mistake_is_told_without_the_password(text: str) -> None:
    with pytest.raises(InvalidName) as raised:
        ViaAddress.parse(text)
    assert "s3cret" not in str(raised.value)
    assert str(raised.value).isprintable()
    assert raised.value.__cause__ is None or "s3cret" not in repr(raised.value.__cause__)


@pytest.mark.parametrize("text", ["", "http://", "::1", "http://[::1", "\udcff", "http://a/b"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(InvalidName) as raised:
        ViaAddress.parse(text)
    assert str(raised.value).isprintable()


def test_a_colon_in_a_socks_user_is_fine() -> None:
    """RFC 1929 sends lengths; RFC 7617 separates by a colon."""
    assert ViaAddress.parse("socks5h://a%3Ab:c@proxy").credentials == Credentials("a:b", "c")


def test_a_password_is_in_no_text() -> None:
    via = ViaAddress.parse("socks5h://ann:s3cret@proxy:1080")
    for text in (str(via), repr(via), f"{via}", repr(via.credentials), str(via.credentials)):
        assert "s3cret" not in text
    assert str(via) == "socks5h://ann:***@proxy:1080"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pw@proxy", "'http://***@proxy'"),
        ("ann:pw@proxy", "'***@proxy'"),
        ("proxy:1", "'proxy:1'"),
        ("ann:pw://x@proxy", "'***@proxy'"),
    ],
)
def test_what_is_shown_of_any_text(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, None),
        ({"http_proxy": "a", "HTTP_PROXY": "b"}, None),
        ({"https_proxy": "a", "HTTPS_PROXY": "b", "all_proxy": "c", "ALL_PROXY": "d"}, "a"),
        ({"HTTPS_PROXY": "b", "all_proxy": "c", "ALL_PROXY": "d"}, "b"),
        ({"all_proxy": "c", "ALL_PROXY": "d"}, "c"),
        ({"ALL_PROXY": "d"}, "d"),
        ({"https_proxy": "", "HTTPS_PROXY": "b"}, "b"),
        ({"HTTPS_PROXY": "b", "NO_PROXY": "example"}, None),
        ({"HTTPS_PROXY": "b", "no_proxy": "other", "NO_PROXY": "example"}, "b"),
        ({"HTTPS_PROXY": "b", "no_proxy": "", "NO_PROXY": "example"}, None),
    ],
)
def test_the_variables_have_an_order(environ: dict[str, str], host: str | None) -> None:
    via = via_from_environment(environ, RELAY)
    assert (via and via.address.host) == host


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_never_reached_through_the_environments_proxy(host: str) -> None:
    assert via_from_environment({"https_proxy": "http://proxy"}, ServerAddress(host, 4433)) is None


def test_a_variable_that_does_not_parse_is_named_and_can_be_overruled() -> None:
    environ = {"ALL_PROXY": "socks://ann:s3cret@proxy"}
    with pytest.raises(ConfigError, match=r"ALL_PROXY: .*NO_PROXY=relay.example") as raised:
        via_from_environment(environ, RELAY)
    assert "s3cret" not in str(raised.value)
    assert via_from_environment({**environ, "NO_PROXY": "relay.example"}, RELAY) is None


@pytest.mark.parametrize(
    ("host", "exempt"),
    [
        ("relay.example", "*"),
        ("relay.example", "relay.example"),
        ("relay.example", "RELAY.Example."),
        ("relay.example", "example"),
        ("relay.example", ".example"),
        ("relay.example", "a, example"),
        ("relay.example", "a example b"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.9.9.9/8"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("2001:db8::1", "2001:db8::/32"),
        ("2001:db8::1", "[2001:db8:0::1]"),
        ("2001:db8::1", "[2001:db8::]/32"),
        ("fe80::1%eth0", "fe80::/10"),
        ("10.1.2.3", "*"),
    ],
)
def test_no_proxy_exempts(host: str, exempt: str) -> None:
    assert is_exempt(host, exempt)


@pytest.mark.parametrize(
    ("host", "exempt"),
    [
        ("relay.example", ""),
        ("relay.example", ", ."),
        ("relay.example", "a.relay.example"),
        ("myrelay.example", "relay.example"),
        ("relay.example", "*.example"),
        ("relay.example", "10.0.0.0/8"),
        ("10.1.2.3", "2.3"),
        ("10.1.2.3", "10.1.2"),
        ("10.1.2.3", "11.0.0.0/8"),
        ("10.1.2.3", "10.0.0.0/40"),
        ("2001:db8::1", "10.0.0.0/8"),
    ],
)
def test_no_proxy_does_not_exempt(host: str, exempt: str) -> None:
    assert not is_exempt(host, exempt)
