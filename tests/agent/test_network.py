"""Which network this is: from the kernel's route files, or from the address that a socket would get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trunnel import capabilities
from trunnel.agent import network
from trunnel.agent.network import NO_NETWORK, DefaultRoute, default_route_v4, default_route_v6, fingerprint, look
from trunnel.settings import limits

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
WIFI = "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
CABLE = "eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
LAN = "eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
HALF = "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n"
DOWN = "ppp0\t00000000\t00000000\t0000\t0\t0\t0\t00000000\t0\t0\t0\n"
BLACKHOLE = "*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n"
DIALLED = "ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"

ANY6, ROUTER6 = "0" * 32, "fe80" + "0" * 27 + "1"
V6 = f"{ANY6} 00 {ANY6} 00 {ROUTER6} 00000400 00000003 00000000 00000003     eth0\n"
V6_CHEAP = f"{ANY6} 00 {ANY6} 00 {ROUTER6} 00000064 00000003 00000000 00000003     wlan0\n"
V6_REJECT = f"{ANY6} 00 {ANY6} 00 {ANY6} 00000000 00000001 00000000 00200200       lo\n"
V6_LAN = f"fd{'0' * 30} 40 {ANY6} 00 {ANY6} 00000100 00000001 00000000 00000001     eth0\n"

LOOPBACK = ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("", None),
        (HEAD, None),
        (HEAD + WIFI, DefaultRoute(600, "wlan0", "0100A8C0")),
        (HEAD + WIFI + CABLE + LAN, DefaultRoute(100, "eth0", "0100000A")),
        (HEAD + DIALLED, DefaultRoute(0, "ppp0", "00000000")),
        (HEAD + LAN + HALF + DOWN + BLACKHOLE, None),
        (HEAD + "eth0\t00000000\tx\n" + WIFI[:20] + "\n" + WIFI, DefaultRoute(600, "wlan0", "0100A8C0")),
        (WIFI.replace("600", "many") + CABLE.replace("0003", "up"), None),
        ("\xff\x00\n" * 3, None),
    ],
)
def test_the_cheapest_usable_default_route_of_ipv4_counts(lines: str, found: DefaultRoute | None) -> None:
    assert default_route_v4(lines.encode("latin-1")) == found


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("", None),
        (V6, DefaultRoute(0x400, "eth0", ROUTER6)),
        (V6 + V6_REJECT + V6_CHEAP, DefaultRoute(0x64, "wlan0", ROUTER6)),
        (V6_LAN + V6_REJECT, None),
        (V6.replace("00000400", "cheap") + V6[:90], None),
    ],
)
def test_the_cheapest_usable_default_route_of_ipv6_counts(lines: str, found: DefaultRoute | None) -> None:
    assert default_route_v6(lines.encode()) == found


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Let the kernel's route files be two of ours, empty at first."""
    v4, v6 = tmp_path / "route", tmp_path / "ipv6_route"
    for path, name in ((v4, "_ROUTES_V4"), (v6, "_ROUTES_V6")):
        path.write_bytes(b"")
        monkeypatch.setattr(network, name, path)
    monkeypatch.setattr(capabilities, "HAS_ROUTE_FILES", True)
    monkeypatch.setattr(network, "_BEYOND", LOOPBACK)
    return v4, v6


def test_the_fingerprint_follows_interface_and_gateway_and_tells_neither(routes: tuple[Path, Path]) -> None:
    v4, _ = routes
    seen: list[str] = []
    for lines in (WIFI, WIFI.replace("600", "601"), WIFI.replace("0100A8C0", "0200A8C0"), WIFI.replace("wlan0", "x")):
        v4.write_text(HEAD + lines)
        seen.append(fingerprint())
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in seen)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_router_advertisements_that_come_and_go_do_not_change_it(routes: tuple[Path, Path]) -> None:
    v4, v6 = routes
    v4.write_text(HEAD + WIFI)
    alone = fingerprint()
    v6.write_text(V6)
    assert fingerprint() == alone


def test_a_network_with_ipv6_alone_has_one_too(routes: tuple[Path, Path]) -> None:
    _, v6 = routes
    assert fingerprint() == NO_NETWORK
    v6.write_text(V6)
    assert fingerprint() != NO_NETWORK


def test_only_the_head_of_a_route_file_is_read(routes: tuple[Path, Path]) -> None:
    """A router with a full table has a million lines; the default stands at their head."""
    v4, _ = routes
    v4.write_text(HEAD + WIFI)
    expected = fingerprint()
    v4.write_text(HEAD + WIFI + LAN * (limits.ROUTES_READ_MAX // len(LAN)) + CABLE)
    assert fingerprint() == expected


def test_without_route_files_it_is_made_of_the_local_address(
    routes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    v4, v6 = routes
    v4.write_text(HEAD + WIFI)
    from_files = fingerprint()
    monkeypatch.setattr(capabilities, "HAS_ROUTE_FILES", False)
    from_address = fingerprint()
    assert from_address not in (from_files, NO_NETWORK)
    monkeypatch.setattr(capabilities, "HAS_ROUTE_FILES", True)
    v4.unlink()
    v6.unlink()
    assert fingerprint() == from_address


def test_no_way_out_is_no_network(routes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "HAS_ROUTE_FILES", False)
    monkeypatch.setattr(network, "_BEYOND", ())
    assert fingerprint() == NO_NETWORK


def test_the_source_towards_a_neighbour_is_the_address_that_it_would_see() -> None:
    assert network.source_towards("127.0.0.1") == "127.0.0.1"
    assert network.source_towards("::1") in ("::1", None)


def test_where_no_packet_can_go_there_is_no_source() -> None:
    """No interface has that name."""
    assert network.source_towards("::1%nowhere") is None


@pytest.mark.parametrize("name", ["localhost", "", "127.0.0.1:443"])
def test_a_name_is_no_address(name: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        network.source_towards(name)


def test_a_look_has_all_of_it(routes: tuple[Path, Path]) -> None:
    v4, _ = routes
    v4.write_text(HEAD + WIFI)
    here = look("127.0.0.1")
    assert (here.fingerprint, here.towards, here.source) == (fingerprint(), "127.0.0.1", "127.0.0.1")
    assert look(None).source is None
