"""Two relays with one state folder, as during a hot restart: one of them orders certificates."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trunnel
from trunnel.acme import keeper
from trunnel.events import ignore_events
from trunnel.identity import locking
from trunnel.names import Hostname
from trunnel.relay.own import keep_own, load_own
from trunnel.settings import limits


class Keepers:
    """Notes who orders, instead of doing it."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = 0

    def __call__(self, *_: object, **__: object) -> Keepers:
        return self

    async def run(self) -> None:
        """Order for ever."""
        self.running += 1
        self.begun += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1


@pytest.fixture
def keepers(monkeypatch: pytest.MonkeyPatch) -> Keepers:
    noted = Keepers()
    monkeypatch.setattr(keeper, "CertificateKeeper", noted)
    return noted


def settings_in(folder: Path) -> trunnel.RelaySettings:
    return trunnel.RelaySettings(state_dir=folder, acme_domains=(Hostname("relay.example"),))


async def test_the_new_relay_orders_once_the_old_one_has_stopped_ordering(
    tmp_path: Path, keepers: Keepers, autojump_clock: trio.testing.MockClock
) -> None:
    settings = settings_in(tmp_path)
    own, drains = await trio.to_thread.run_sync(load_own, settings), [trio.Event(), trio.Event()]
    async with trio.open_nursery() as nursery:
        for drain in drains:
            nursery.start_soon(partial(keep_own, own, settings, ignore_events, drain.wait))
            await trio.sleep(5 * limits.STORE_POLL)
            assert (keepers.running, keepers.begun) == (1, 1)
        drains[0].set()
        await trio.sleep(2 * limits.STORE_POLL)
        assert (keepers.running, keepers.begun) == (1, 2)
        drains[1].set()
    assert keepers.running == 0


async def test_where_nothing_can_be_locked_it_orders_all_the_same(
    tmp_path: Path, keepers: Keepers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """HOST-05: a full disk must not cost the certificate."""

    def full(_: Path) -> int:
        raise OSError(28, "No space left on device")

    settings, drain = settings_in(tmp_path), trio.Event()
    own = await trio.to_thread.run_sync(load_own, settings)
    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as disk:
            disk.setattr(locking, "_open_lock_file", full)
            nursery.start_soon(partial(keep_own, own, settings, ignore_events, drain.wait))
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert keepers.running == 1
        drain.set()
    assert "certificates_not_locked" in [record.message for record in caplog.records]
