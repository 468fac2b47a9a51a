"""Remember the relay that has let this key in with an invitation; `settings.joined` puts it to use.

The file decides which key is trusted, so it is written as keys are: whole, or not at all, and for this user alone.
"""

from __future__ import annotations

import msgspec

from trunnel.identity.files import atomic_write, open_folder
from trunnel.settings.agent import AgentSettings
from trunnel.settings.invitation import JoinString
from trunnel.settings.joined import Joined, joined_path


def remember_joined(settings: AgentSettings, invitation: JoinString) -> None:
    """Write down where *invitation* led.  Blocks for as long as the disk takes.

    Raises:
        ConfigError: It could not be written; what was remembered before still is.
    """
    path = joined_path(settings.state_dir, key_name=settings.key_name, key_file=settings.key_file)
    content = Joined(
        server=str(invitation.server),
        relay=invitation.relay.value,
        names=[name.value for name in invitation.names],
    )
    open_folder(path.parent)
    atomic_write(path, msgspec.json.encode(content))
