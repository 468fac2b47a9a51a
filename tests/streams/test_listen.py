"""Listeners: every family on one port, and errors that say what to do."""

from __future__ import annotations

import errno
import re
import socket

import pytest
import trio

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.streams.listen import HostPort, descriptor_limit, host_port, open_listeners


def test_a_free_port_is_the_same_on_both_families() -> None:
    listeners = open_listeners(["127.0.0.1", "::1"], 0)
    try:
        assert len({listener.address[1] for listener in listeners}) == 1
        assert listeners[0].address[0] == "127.0.0.1"
    finally:
        for listener in listeners:
            listener.close()
            listener.close()


def test_a_host_without_ipv6_still_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.create_server

    def without_ipv6(address: HostPort, *, family: int, **options: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "no IPv6 here")
        return real(address, family=family, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    (listener,) = open_listeners(["127.0.0.1", "::1"], 0)
    listener.close()
    for addresses in (["::1"], ["127.0.0.1", "2001:db8::1"]):
        with pytest.raises(ConfigError, match=r"no IPv6|not an address of this machine"):
            open_listeners(addresses, 0)


def test_errors_of_binding_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = open_listeners(["127.0.0.1"], 0)
    try:
        with pytest.raises(ConfigError, match=re.escape("another program listens on 127.0.0.1")):
            open_listeners(["127.0.0.1"], taken.address[1])
    finally:
        taken.close()
    with pytest.raises(ConfigError, match="not an IP address"):
        open_listeners(["localhost"], 0)
    with pytest.raises(ConfigError, match="not an address of this machine"):
        open_listeners(["192.0.2.1"], 0)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "not for you")

    monkeypatch.setattr(socket, "create_server", forbidden)
    with pytest.raises(ConfigError, match="ip_unprivileged_port_start=443"):
        open_listeners(["127.0.0.1"], 443)


async def test_accept_does_not_wait() -> None:
    (listener,) = open_listeners(["127.0.0.1"], 0)
    assert listener.accept_nowait() is None
    async with await trio.open_tcp_stream(*listener.address) as stream:
        await listener.wait_readable()
        accepted = listener.accept_nowait()
        assert accepted is not None
        sock, peer = accepted
        assert peer == stream.socket.getsockname()
        sock.close()
    listener.close()


async def test_closing_wakes_whoever_waits() -> None:
    (listener,) = open_listeners(["127.0.0.1"], 0)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.wait_readable()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()
    with pytest.raises(trio.ClosedResourceError):
        await listener.wait_readable()


def test_a_scope_is_no_part_of_an_address() -> None:
    assert host_port(("fe80::1%eth0", 443, 0, 2)) == ("fe80::1", 443)


def test_without_the_resource_module_the_limit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "HAS_RLIMIT", False)
    assert descriptor_limit() is None
