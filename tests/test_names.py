"""Names and addresses: one canonical value for each, and only our errors for everything else."""

from __future__ import annotations

import base64
import hashlib
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.wire_targets import fuzz_hostname
from trunnel.errors import InvalidName, RemoteProtocolError
from trunnel.names import (
    AGENT_ID_CHARS,
    HOSTNAME_MAX,
    LABEL_MAX,
    PORT_MAX,
    Hostname,
    KeyId,
    ServerAddress,
    Target,
    is_ip_literal,
    parse_hostname_untrusted,
    parse_port,
)

KELVIN = "\N{KELVIN SIGN}"
LABELS = st.text("abcxyzABCXYZ0189_-", min_size=1, max_size=LABEL_MAX)
HOSTNAMES = (
    st.lists(LABELS, min_size=1, max_size=6).map(".".join).filter(lambda n: len(n) <= HOSTNAME_MAX and n[-1].isalpha())
)
PORTS = st.integers(1, PORT_MAX)
ADDRESSES = st.ip_addresses().map(str)
ANYTHING = st.one_of(st.text(), st.text("0123456789.:[]%/ axunihtps", max_size=40))


class TestHostname:
    """Host names: ASCII, folded, one final dot stripped, never an IP address."""

    @given(HOSTNAMES, st.booleans())
    def test_any_spelling_gives_the_one_canonical_name(self, text: str, dot: bool) -> None:
        name = Hostname.parse(f" {text}{'.' if dot else ''} ")
        assert name.value == text.lower()
        assert Hostname.parse(str(name)) == name == parse_hostname_untrusted(text.upper().encode())

    @given(ANYTHING)
    @example(KELVIN)
    @example("a" + KELVIN)
    def test_text_is_a_canonical_name_or_an_invalid_one(self, text: str) -> None:
        try:
            name = Hostname.parse(text)
        except InvalidName:
            return
        assert text.strip().isascii()
        assert Hostname.parse(name.value) == name

    @given(st.one_of(st.binary(), st.text().map(str.encode), st.from_regex(rb"\A[a-zA-Z0-9.:_-]{1,30}\Z")))
    @example(KELVIN.encode())
    @example(b"1.2.3.4.")
    def test_bytes_of_a_stranger_give_a_name_or_our_error(self, raw: bytes) -> None:
        fuzz_hostname(raw)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b".",
            b"..",
            b"a..b",
            b".a",
            b"a..",
            b"a b",
            b"a\x00",
            b"a\n",
            b"*.example.com",
            b"\xc3\xbc.example",
            b"1.2.3.4",
            b"1.2.3.4.",
            b"::1",
            b"[::1]",
            b"a" * (LABEL_MAX + 1),
            b"a." * 127 + b"b",
            b"a/b",
            b"a:80",
        ],
    )
    def test_what_is_no_host_name_is_refused(self, raw: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            parse_hostname_untrusted(raw)

    def test_limits_are_inclusive(self) -> None:
        longest = ".".join(["a" * LABEL_MAX] * 3 + ["a" * (HOSTNAME_MAX - 3 * (LABEL_MAX + 1))])
        assert len(longest) == HOSTNAME_MAX
        assert Hostname.parse(longest + ".").value == longest
        with pytest.raises(InvalidName):
            Hostname.parse(longest + "a")

    def test_a_label_is_put_before_a_name(self) -> None:
        assert Hostname.parse("example.com").under("WWW") == Hostname("www.example.com")
        with pytest.raises(InvalidName):
            Hostname.parse("example.com").under("")


class TestKeyId:
    """Key ids and pins: one id for each digest."""

    @given(st.binary(min_size=1, max_size=200))
    def test_every_spelling_of_one_digest_is_one_id(self, spki: bytes) -> None:
        key = KeyId.of_spki(spki)
        digest = hashlib.sha256(spki).digest()
        assert len(key.value) == AGENT_ID_CHARS
        assert key == KeyId.parse(key.value) == KeyId.parse(f" {key.value.upper()}\n")
        pins = [key.value, digest.hex(), digest.hex(":").upper(), base64.b64encode(digest).decode()]
        pins += ["sha256//" + pins[3], "sha256:" + pins[1]]
        assert {KeyId.parse_pin(pin) for pin in pins} == {key}
        assert key.value.startswith(key.short)

    @given(ANYTHING)
    def test_other_text_is_an_invalid_name(self, text: str) -> None:
        for parse in (KeyId.parse, KeyId.parse_pin):
            with pytest.raises(InvalidName):
                parse(text)

    @pytest.mark.parametrize("parse", [KeyId.parse, KeyId.parse_pin])
    def test_only_ascii_is_folded(self, parse: object) -> None:
        """U+212A lower-cases to `k`: two spellings that look alike would be one key."""
        assert callable(parse)
        with pytest.raises(InvalidName):
            parse(KELVIN + "a" * (AGENT_ID_CHARS - 1))

    def test_bits_beyond_the_digest_are_zero(self) -> None:
        """52 characters hold 260 bits; the last four belong to nothing and must not make a second spelling."""
        key = KeyId.of_spki(b"key").value
        accepted = [last for last in "abcdefghijklmnopqrstuvwxyz234567" if _is_id(key[:-1] + last)]
        assert accepted == ["a", "q"]


def _is_id(text: str) -> bool:
    try:
        return KeyId.parse(text).value == text
    except InvalidName:
        return False


class TestPort:
    """Ports: plain decimal."""

    @given(st.integers(-10, PORT_MAX * 2))
    def test_plain_numbers_in_range(self, number: int) -> None:
        if 1 <= number <= PORT_MAX:
            assert parse_port(str(number)) == number
        else:
            with pytest.raises(InvalidName):
                parse_port(str(number))

    @pytest.mark.parametrize("text", ["", " 80", "80\n", "+80", "٨٠", "8_0", "0x50", "000080", "0"])
    def test_other_spellings_are_refused(self, text: str) -> None:
        with pytest.raises(InvalidName):
            parse_port(text)

    def test_zero_means_any_where_that_makes_sense(self) -> None:
        assert parse_port("0", zero=True) == 0


class TestServerAddress:
    """Where a relay is dialled."""

    @given(st.one_of(HOSTNAMES, ADDRESSES), st.one_of(st.none(), PORTS))
    def test_every_spelling_parses_and_prints_back(self, host: str, port: int | None) -> None:
        shown = f"[{host}]" if ":" in host else host
        text = shown if port is None else f"{shown}:{port}"
        address = ServerAddress.parse(f"https://{text}/")
        assert address.port == (ServerAddress.DEFAULT_PORT if port is None else port)
        assert ServerAddress.parse(str(address)) == address == ServerAddress.parse(text)

    @given(ANYTHING)
    @example("::1%\x1b[2J")
    @example("[::1% a]:1")
    def test_text_is_an_address_or_an_invalid_name(self, text: str) -> None:
        try:
            address = ServerAddress.parse(text)
        except InvalidName:
            return
        assert ServerAddress.parse(str(address)) == address
        assert address.host.isprintable()

    @given(st.ip_addresses(v=6))
    def test_an_ip_address_has_one_form(self, address: ipaddress.IPv6Address) -> None:
        """Known relays are looked up by address: two spellings would be two relays."""
        spellings = {ServerAddress.parse(f"[{text}]") for text in (str(address), address.exploded.upper())}
        assert len(spellings) == 1

    def test_a_scope_is_kept(self) -> None:
        assert ServerAddress.parse("[FE80::1%eth0]:4433") == ServerAddress("fe80::1%eth0", 4433)

    @pytest.mark.parametrize(
        "text",
        ["", ":", ":1", "a:", "a:0", "a:65536", "[::1", "::1]", "[a]:1", "[::1]1", "[1.2.3.4", "a b", "a:1:2", "a@b"],
    )
    def test_other_shapes_are_refused(self, text: str) -> None:
        with pytest.raises(InvalidName):
            ServerAddress.parse(text)


class TestTarget:
    """What an agent exposes."""

    @given(st.one_of(HOSTNAMES, ADDRESSES), PORTS)
    def test_tcp_targets_parse_and_print_back(self, host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        target = Target.parse(f"{shown}:{port}")
        assert target.port == port
        assert target == Target.parse(f"http://{shown}:{port}/") == Target.parse(str(target))

    @given(ANYTHING)
    @example("unix:/run/\x00")
    def test_text_is_a_target_or_an_invalid_name(self, text: str) -> None:
        try:
            target = Target.parse(text)
        except InvalidName:
            return
        assert Target.parse(str(target)) == target
        assert (target.path is None) is (target.port is not None)
        assert target.path is None or "\x00" not in target.path

    @pytest.mark.parametrize("text", ["3000", "localhost:3000", "LOCALHOST.:3000", "http://localhost:3000"])
    def test_localhost_is_both_loopback_families(self, text: str) -> None:
        assert Target.parse(text) == Target(port=3000)

    def test_other_forms(self) -> None:
        assert Target.parse("http://[::1]") == Target(host="::1", port=80)
        assert Target.parse("unix:/run/app.sock") == Target(path="/run/app.sock")
        assert str(Target.parse("unix:/run/app.sock")) == "unix:/run/app.sock"

    @pytest.mark.parametrize("text", ["", "0", "70000", "example.com", "::1", "[::1]", "unix:", "http://", "ftp://a:1"])
    def test_what_cannot_be_dialled_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidName):
            Target.parse(text)

    def test_https_is_refused_with_a_hint(self) -> None:
        with pytest.raises(InvalidName, match="--tls-passthrough"):
            Target.parse("https://localhost:3000")


def test_ip_literals_are_told_from_names() -> None:
    assert is_ip_literal("127.0.0.1")
    assert is_ip_literal("::1")
    assert is_ip_literal("fe80::1%eth0")
    assert not is_ip_literal("[::1]")
    assert not is_ip_literal("1.2.3")
    assert not is_ip_literal("example.com")
