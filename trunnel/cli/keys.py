"""`trunnel id` and `trunnel version`: who this agent is, and what it runs."""

from __future__ import annotations

import base64
import hashlib
import json as json_module
import platform
from collections.abc import Mapping

import typer

from trunnel.settings.options import Flag


def run_id(flags: Mapping[str, Flag], *, form: str) -> None:
    """Print the agent's id, certificate, public key, or all as JSON; makes the key if absent.

    Args:
        flags: The options that say which key.
        form: `id`, `cert`, `spki` or `json`.

    Raises:
        ConfigError: The options are wrong.
        AuthError: The key file cannot be used.
    """
    from trunnel.identity.keys import IdentityKey
    from trunnel.settings.load import load_agent
    from trunnel.settings.paths import make_state_dir

    settings = load_agent(flags).settings
    if settings.key_file is None:
        make_state_dir(settings.state_dir)
    key = IdentityKey.load_or_create(settings.key_path)
    if form == "cert":
        from cryptography.hazmat.primitives.serialization import Encoding

        from trunnel.clock import utc_now
        from trunnel.identity.keys import link_certificate

        certificate = link_certificate(key, now=utc_now(), extension=settings.cert_extension)
        typer.echo(certificate.public_bytes(Encoding.PEM).decode("ascii"), nl=False)
    elif form == "spki":
        typer.echo(public_key_pem(key.spki), nl=False)
    elif form == "json":
        pin = base64.b64encode(hashlib.sha256(key.spki).digest()).decode("ascii")
        typer.echo(
            json_module.dumps(
                {
                    "id": str(key.key_id),
                    "pin": f"sha256//{pin}",
                    "spki": base64.b64encode(key.spki).decode("ascii"),
                    "key_file": str(settings.key_path),
                }
            )
        )
    else:
        typer.echo(str(key.key_id))


def public_key_pem(spki: bytes) -> str:
    """Return a DER-encoded SubjectPublicKeyInfo as PEM (RFC 7468 §13)."""
    text = base64.b64encode(spki).decode("ascii")
    lines = [text[at : at + PEM_LINE] for at in range(0, len(text), PEM_LINE)]
    return "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""))


PEM_LINE = 64
"""Characters of a line of PEM (RFC 7468 §2)."""


def run_version(*, json: bool) -> None:
    """Print the version of trunnel, or also of what it runs on as JSON."""
    from trunnel.version import VERSION

    if not json:
        typer.echo(f"trunnel {VERSION}")
        return
    from trunnel.wire.control import PROTOCOL_VERSION

    facts = {
        "version": VERSION,
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    typer.echo(json_module.dumps(facts))
