"""How a relay is reached: which transports are dialled, what is said of it, what is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
import trio

from trunnel.agent.choices import Choices
from trunnel.agent.dial import Carrier, Dialler
from trunnel.agent.network import fingerprint
from trunnel.agent.reach import Reach, is_tcp
from trunnel.clock import utc_now
from trunnel.errors import ConnectError, RelayIdentityError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.settings.agent import TransportChoice
from trunnel.settings.via import ViaAddress
from trunnel.transports.selection import TransportKind

QUIC, H2, YAMUX = TransportKind.QUIC, TransportKind.H2, TransportKind.YAMUX
AUTO = TransportChoice.AUTO
RELAY = ServerAddress("relay.example", 443)
VIA = ViaAddress.parse("socks5h://me:secret@proxy.example:1080")


@dataclass
class Answering:
    """A dialler: some transports are answered, others fail."""

    answered: tuple[TransportKind, ...]
    via: ViaAddress | None = None
    dialled: list[TransportKind] = field(default_factory=list[TransportKind])
    beside_tcp: bool | None = None
    """What the last dial was told."""
    failure: ConnectError = field(default_factory=lambda: ConnectError("connection refused"))
    server = RELAY

    async def dial(self, kind: TransportKind, *, beside_tcp: bool = False) -> Carrier:
        self.dialled.append(kind)
        self.beside_tcp = beside_tcp
        await trio.lowlevel.checkpoint()
        if kind not in self.answered:
            raise self.failure
        return cast("Carrier", kind)


def reach(folder: Path, dialler: Answering, choice: TransportChoice = AUTO) -> Reach:
    """Return the ways to a relay."""
    return Reach(cast("Dialler", dialler), choice, Choices(folder / "choices"))


@pytest.mark.parametrize(
    ("choice", "via", "wanted", "tcp", "automatic"),
    [
        (AUTO, None, "auto", H2, True),
        (AUTO, VIA, "h2", H2, False),
        (TransportChoice.QUIC, None, "quic", None, False),
        (TransportChoice.H2, None, "h2", H2, False),
        (TransportChoice.YAMUX, VIA, "yamux", YAMUX, False),
    ],
)
def test_what_may_carry_a_session(
    tmp_path: Path,
    choice: TransportChoice,
    via: ViaAddress | None,
    wanted: str,
    tcp: TransportKind | None,
    *,
    automatic: bool,
) -> None:
    ways = reach(tmp_path, Answering((), via), choice)
    assert (ways.wanted, ways.tcp, ways.automatic, ways.server) == (wanted, tcp, automatic, RELAY)


async def test_a_transport_that_was_asked_for_is_the_only_one_dialled(tmp_path: Path) -> None:
    for choice, kind in ((TransportChoice.QUIC, QUIC), (TransportChoice.H2, H2), (TransportChoice.YAMUX, YAMUX)):
        dialler = Answering((kind,))
        chosen = await reach(tmp_path, dialler, choice).first()
        assert (chosen.transport, dialler.dialled) == (kind, [kind])
        assert chosen.value is cast("Carrier", kind)
        assert dialler.beside_tcp is False
        assert chosen.why == f"{kind.full_name}, as asked"
        refused = Answering(())
        with pytest.raises(ConnectError):
            await reach(tmp_path, refused, choice).first()
        assert refused.dialled == [kind]


async def test_quic_is_dialled_first_and_tcp_takes_over(tmp_path: Path) -> None:
    dialler = Answering((H2,))
    chosen = await reach(tmp_path, dialler).first()
    assert dialler.dialled == [QUIC, H2]
    assert (chosen.transport, chosen.passed_over) == (H2, QUIC)
    assert dialler.beside_tcp  # QUIC is not waited for long
    assert chosen.why == "HTTP/2 over TLS on TCP: UDP failed (connection refused)"


async def test_through_a_proxy_it_is_tcp_and_the_password_is_not_told(tmp_path: Path) -> None:
    dialler = Answering((QUIC, H2), VIA)
    chosen = await reach(tmp_path, dialler).first()
    assert dialler.dialled == [H2]
    assert chosen.why == "HTTP/2 over TLS on TCP: QUIC does not go through socks5h://me:***@proxy.example:1080"


async def test_what_lost_here_goes_second_the_next_time(tmp_path: Path) -> None:
    """Also for another agent with the same folder."""
    await reach(tmp_path, Answering(())).note({QUIC: False, H2: True})
    dialler = Answering((QUIC, H2))
    chosen = await reach(tmp_path, dialler).first()
    assert dialler.dialled == [H2]
    assert chosen.why == "HTTP/2 over TLS on TCP: UDP was blocked on this network just now"


async def test_what_worked_again_goes_first_again(tmp_path: Path) -> None:
    ways = reach(tmp_path, Answering((QUIC, H2)))
    await ways.note({QUIC: False})
    await ways.note({QUIC: True})
    assert (await ways.first()).transport is QUIC


async def test_another_relay_is_another_matter(tmp_path: Path) -> None:
    other = reach(tmp_path, Answering(()))
    other.choices.note(ServerAddress("other.example", 443), fingerprint(), QUIC, worked=False, now=utc_now())
    assert await other.quic_due() == 0


@pytest.mark.parametrize("choice", [TransportChoice.H2, TransportChoice.QUIC])
async def test_who_names_a_transport_leaves_no_memory(tmp_path: Path, choice: TransportChoice) -> None:
    ways = reach(tmp_path, Answering(()), choice)
    await ways.note({QUIC: False, H2: True})
    assert not ways.choices.path.exists()


async def test_quic_is_due_when_its_interval_is_over(tmp_path: Path) -> None:
    ways = reach(tmp_path, Answering(()))
    assert await ways.quic_due() == 0
    await ways.note({QUIC: False})
    assert await ways.quic_due() == pytest.approx(limits.QUIC_RETRY_MIN, abs=5)
    long_ago = utc_now() - timedelta(seconds=limits.QUIC_RETRY_MAX)
    ways.choices.note(RELAY, fingerprint(), QUIC, worked=False, now=long_ago)
    assert await ways.quic_due() == 0


async def test_data_connections_are_remembered_whatever_the_transport(tmp_path: Path) -> None:
    """With the reason, for who asks next on this network."""
    ways = reach(tmp_path, Answering(()), TransportChoice.H2)
    assert await ways.recall_direct() is None
    await ways.note_direct("connection refused")
    found = await ways.recall_direct()
    assert found is not None
    assert (found.worked, found.reason, found.failures) == (False, "connection refused", 1)
    await ways.note_direct("")
    found = await ways.recall_direct()
    assert found is not None
    assert (found.worked, found.reason) == (True, "")
    assert await ways.quic_due() == 0


async def test_an_impostor_on_one_way_ends_the_race(tmp_path: Path) -> None:
    dialler = Answering((H2,), failure=RelayIdentityError("another key"))
    with pytest.raises(RelayIdentityError):
        await reach(tmp_path, dialler).first()


def test_which_transports_are_tcp() -> None:
    assert [kind for kind in TransportKind if is_tcp(kind)] == [H2, YAMUX]
    assert not is_tcp("memory")
