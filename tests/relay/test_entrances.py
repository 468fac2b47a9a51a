"""Which sockets a relay has: given ones and bound ones, what each is for, and what is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.relay.places import is_open, settings_for
from trunnel.errors import ConfigError
from trunnel.relay.entrances import Given, open_entrances, open_udp, require_same
from trunnel.relay.ingress import ALL_ROLES, Entrance, Role
from trunnel.settings.relay import RelaySettings

VISITORS = frozenset({Role.VISITORS, Role.CHALLENGES})


@pytest.fixture
def made() -> Iterator[ExitStack]:
    """Closes sockets at the end, whoever has them."""
    with ExitStack() as stack:
        yield stack


def listening(made: ExitStack, host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return made.enter_context(socket.create_server((host, 0), family=family))


def datagrams(made: ExitStack) -> socket.socket:
    sock = made.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return sock


@contextmanager
def entrances(settings: RelaySettings, *given: Given) -> Iterator[list[Entrance]]:
    found = open_entrances(settings, given)
    try:
        yield found
    finally:
        for entrance in found:
            entrance.listener.close()


def roles(found: list[Entrance]) -> dict[str, frozenset[Role]]:
    return {entrance.name: entrance.roles for entrance in found}


# --- without any -----------------------------------------------------------------------------------


def test_each_port_is_bound_for_its_role(tmp_path: Path) -> None:
    with entrances(settings_for(tmp_path, alpn_port=0)) as found:
        assert roles(found) == {"api-port": frozenset({Role.AGENTS}), "pub-port": VISITORS, "alpn-port": VISITORS}


def test_one_port_is_for_everything(tmp_path: Path) -> None:
    with entrances(settings_for(tmp_path, port=0)) as found:
        assert roles(found) == {"port": ALL_ROLES}
        assert not found[0].supervised


# --- a supervisor's ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "meant"), [("port", "port"), ("all", "port")])
def test_one_socket_for_everything_replaces_every_port(tmp_path: Path, made: ExitStack, name: str, meant: str) -> None:
    sock = listening(made)
    with entrances(settings_for(tmp_path), Given(sock, name)) as found:
        assert [(each.name, each.listener.address, each.supervised) for each in found] == [
            (meant, sock.getsockname(), True)
        ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("agents", "api-port"), ("visitors", "pub-port"), ("challenges", "alpn-port"), ("api-port", "api-port")],
)
def test_a_socket_goes_by_its_name_and_the_rest_is_bound(
    tmp_path: Path, made: ExitStack, name: str, meant: str
) -> None:
    sock = listening(made)
    with entrances(settings_for(tmp_path), Given(sock, name)) as found:
        assert {"api-port", "pub-port", meant} == roles(found).keys()
        assert [each.listener.address for each in found if each.supervised] == [sock.getsockname()]
        assert [each.name for each in found if each.supervised] == [meant]


def test_a_socket_without_a_known_name_is_the_one_of_its_port(tmp_path: Path, made: ExitStack) -> None:
    sock = listening(made)
    settings = settings_for(tmp_path, pub_port=sock.getsockname()[1])
    with entrances(settings, Given(sock, "trunnel-relay.socket")) as found:
        assert roles(found) == {"api-port": frozenset({Role.AGENTS}), "pub-port": VISITORS}


def test_a_socket_for_nothing_is_refused_with_what_it_could_be(tmp_path: Path, made: ExitStack) -> None:
    sock = listening(made)
    with pytest.raises(ConfigError, match=r"given as 'unknown': name it port, api-port, pub-port, alpn-port"):
        open_entrances(settings_for(tmp_path), [Given(sock, "unknown")])
    assert is_open(sock.fileno()), "it stays the caller's"


def test_two_families_are_two_sockets_of_one_name(tmp_path: Path, made: ExitStack) -> None:
    given = [Given(listening(made, host), "port") for host in ("127.0.0.1", "::1")]
    with entrances(settings_for(tmp_path), *given) as found:
        assert [each.listener.address[0] for each in found] == ["127.0.0.1", "::1"]


def test_what_does_not_listen_or_serves_both_families_is_refused(tmp_path: Path, made: ExitStack) -> None:
    deaf = made.enter_context(socket.socket())
    both = made.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True))
    unix = made.enter_context(socket.socket(socket.AF_UNIX))
    for sock, said in ((deaf, "does not listen"), (both, "BindIPv6Only=ipv6-only"), (unix, "not one of IP")):
        with pytest.raises(ConfigError, match=said):
            open_entrances(settings_for(tmp_path), [Given(sock, "port")])


def test_if_one_port_cannot_be_had_none_stays_bound(tmp_path: Path, made: ExitStack) -> None:
    taken = listening(made).getsockname()[1]
    free = listening(made)
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(ConfigError, match="another program"):
        open_entrances(settings_for(tmp_path, api_port=port, pub_port=taken))
    socket.create_server(("127.0.0.1", port)).close()


# --- UDP --------------------------------------------------------------------------------------------


def test_udp_is_bound_where_agents_come(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with entrances(settings) as found:
        (udp,) = open_udp(found)
        assert udp.address == found[0].listener.address
        udp.close()


def test_udp_that_was_given_is_taken(tmp_path: Path, made: ExitStack) -> None:
    settings = settings_for(tmp_path)
    given = Given(datagrams(made), "anything")
    with entrances(settings, given) as found:
        assert {each.name for each in found} == {"api-port", "pub-port"}
        (udp,) = open_udp(found, [given])
        assert udp.fileno() == given.sock.fileno()


def test_udp_that_somebody_else_has_costs_quic_and_no_more(
    tmp_path: Path, made: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(tmp_path)
    with entrances(settings) as found:
        other = made.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        other.bind(found[0].listener.address)
        assert open_udp(found) == []
        assert [record.message for record in caplog.records] == ["no_quic"]


# --- another relay's --------------------------------------------------------------------------------


def taken(made: ExitStack, *names: str, supervised: bool = False) -> list[Given]:
    return [Given(listening(made), name, supervised) for name in names]


def test_the_same_ports_or_any_are_the_same(tmp_path: Path, made: ExitStack) -> None:
    given = taken(made, "api-port", "pub-port")
    api, pub = (one.sock.getsockname()[1] for one in given)
    require_same(settings_for(tmp_path), given)
    require_same(settings_for(tmp_path, api_port=api, pub_port=pub), [*given, Given(datagrams(made), "", False)])


@pytest.mark.parametrize(
    "options", [{"port": 0}, {"alpn_port": 0}, {"pub_port": 1}, {"bind_addrs": ("127.0.0.2",)}], ids=str
)
def test_other_ports_or_addresses_are_refused_with_those_that_it_has(
    tmp_path: Path, made: ExitStack, options: dict[str, object]
) -> None:
    given = taken(made, "api-port", "pub-port")
    with pytest.raises(ConfigError, match=r"it has api-port tcp 127\.0\.0\.1:\d+, pub-port tcp") as caught:
        require_same(settings_for(tmp_path, **options), given)
    assert "without --takeover" in caught.value.reason


def test_a_supervisor_s_sockets_are_where_its_unit_says(tmp_path: Path, made: ExitStack) -> None:
    require_same(settings_for(tmp_path, port=443), taken(made, "port", supervised=True))
