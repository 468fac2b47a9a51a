"""`trunnel id` and `trunnel version`: each form of the id, one key, what is told to programs."""

from __future__ import annotations

import base64
import json
import stat
from importlib import metadata
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from typer.testing import CliRunner

from trunnel.cli.keys import public_key_pem, run_id
from trunnel.cli.main import app
from trunnel.errors import ConfigError
from trunnel.names import KeyId
from trunnel.wire.control import PROTOCOL_VERSION


def printed(*arguments: str) -> str:
    """Run a command that succeeds; returns what it printed."""
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_version() -> None:
    assert printed("version") == f"trunnel {metadata.version('trunnel')}\n"
    assert printed("--version") == printed("version")
    assert json.loads(printed("version", "--json"))["version"] == metadata.version("trunnel")


def test_id_makes_a_key_and_keeps_it(bare_environment: Path) -> None:
    first = printed("id").strip()
    assert KeyId.parse(first).value == first
    assert printed("id").strip() == first
    assert printed("id", "--key-name", "other").strip() != first
    folder = bare_environment / "state" / "trunnel" / "agent"
    assert sorted(path.name for path in folder.glob("*.key")) == ["default.key", "other.key"]


def test_the_forms_of_an_id_agree(tmp_path: Path) -> None:
    key = str(tmp_path / "key.pem")
    plain = printed("id", "--primary-key", key).strip()
    public = load_pem_public_key(printed("id", "--primary-key", key, "--spki").encode())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate = x509.load_pem_x509_certificate(printed("id", "--primary-key", key, "--cert").encode())
    facts = json.loads(printed("id", "--primary-key", key, "--json"))
    assert KeyId.of_spki(der).value == plain == facts["id"] == KeyId.parse_pin(facts["pin"]).value
    assert certificate.public_key() == public


def test_the_forms_of_an_id_exclude_each_other() -> None:
    assert CliRunner().invoke(app, ["id", "--cert", "--spki"]).exit_code == 2


def test_the_extension_is_in_the_certificate(tmp_path: Path) -> None:
    arguments = ("--primary-key", str(tmp_path / "key.pem"), "--primary-cert-extension-hex", "c0ffee")
    certificate = x509.load_pem_x509_certificate(printed("id", "--cert", *arguments).encode())
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.65535.1"))
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    assert b"\xc0\xff\xee" in extension.value.value


def test_json_says_where_the_key_is_and_has_the_public_key(tmp_path: Path) -> None:
    key = str(tmp_path / "key.pem")
    facts = json.loads(printed("id", "--primary-key", key, "--json"))
    assert facts["key_file"] == key
    assert KeyId.of_spki(base64.b64decode(facts["spki"])).value == facts["id"]
    assert facts["pin"].startswith("sha256//")


def test_the_key_and_its_folder_are_for_their_owner_alone(bare_environment: Path) -> None:
    printed("id")
    folder = bare_environment / "state" / "trunnel" / "agent"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "default.key").stat().st_mode) == 0o600


def test_a_key_elsewhere_makes_no_state_folder(bare_environment: Path) -> None:
    printed("id", "--primary-key", str(bare_environment / "key.pem"))
    assert not (bare_environment / "state").exists()


def test_wrong_options_make_no_key(bare_environment: Path) -> None:
    with pytest.raises(ConfigError):
        run_id({"key_name": "../x"}, form="id")
    assert not (bare_environment / "state").exists()


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()], ids=["P-256", "Ed25519"]
)
def test_a_public_key_is_pem_as_openssl_writes_it(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    public = key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public_key_pem(der).encode() == public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_programs_are_told_the_protocol_too() -> None:
    facts = json.loads(printed("version", "--json"))
    assert set(facts) == {"version", "protocol", "python", "platform"}
    assert facts["protocol"] == PROTOCOL_VERSION
