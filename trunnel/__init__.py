"""trunnel: a self-hosted reverse tunnel.

The public API, all of it::

    async with trunnel.open_tunnel(3000) as tunnel:   # an agent in your program
        print(tunnel.url)
        await tunnel.wait_closed()

    await trunnel.serve_relay(trunnel.RelaySettings(state_dir=...))   # a relay

Names are imported when they are first used: `import trunnel` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunnel.agent.runner import Tunnel, open_tunnel
    from trunnel.agent.visitor import StreamHandler, VisitorInfo
    from trunnel.errors import (
        AuthError,
        ConfigError,
        ConnectError,
        InvalidName,
        RejectCode,
        Rejected,
        RelayIdentityError,
        SessionClosed,
        TrunnelError,
    )
    from trunnel.events import Event
    from trunnel.names import Hostname, KeyId, ServerAddress, Target
    from trunnel.relay.applicants import Applicant, AuthorizationHook
    from trunnel.relay.authorized import AuthorizedAgent
    from trunnel.relay.bound import BoundRelay
    from trunnel.relay.server import serve_relay
    from trunnel.settings.agent import AgentSettings
    from trunnel.settings.relay import RelaySettings

__all__ = [
    "AgentSettings",
    "Applicant",
    "AuthError",
    "AuthorizationHook",
    "AuthorizedAgent",
    "BoundRelay",
    "ConfigError",
    "ConnectError",
    "Event",
    "Hostname",
    "InvalidName",
    "KeyId",
    "RejectCode",
    "Rejected",
    "RelayIdentityError",
    "RelaySettings",
    "ServerAddress",
    "SessionClosed",
    "StreamHandler",
    "Target",
    "TrunnelError",
    "Tunnel",
    "VisitorInfo",
    "open_tunnel",
    "serve_relay",
]

_HOMES = {
    "trunnel.agent.runner": ("Tunnel", "open_tunnel"),
    "trunnel.agent.visitor": ("StreamHandler", "VisitorInfo"),
    "trunnel.events": ("Event",),
    "trunnel.names": ("Hostname", "KeyId", "ServerAddress", "Target"),
    "trunnel.relay.applicants": ("Applicant", "AuthorizationHook"),
    "trunnel.relay.authorized": ("AuthorizedAgent",),
    "trunnel.relay.bound": ("BoundRelay",),
    "trunnel.relay.server": ("serve_relay",),
    "trunnel.settings.agent": ("AgentSettings",),
    "trunnel.settings.relay": ("RelaySettings",),
}


def __getattr__(name: str) -> object:
    """Import a public name from its home (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'trunnel' has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "trunnel.errors")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
