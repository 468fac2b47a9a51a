"""Four layers, one table: flag, environment, TOML, default."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.errors import ConfigError
from trunnel.names import Hostname, ServerAddress, Target
from trunnel.settings import limits
from trunnel.settings.agent import DataChoice, TransportChoice
from trunnel.settings.domain import EVERY_ADDRESS
from trunnel.settings.load import load_agent, load_authorized_path, load_relay, parse_config
from trunnel.settings.options import Flag
from trunnel.settings.output import LogFormat, LogLevel
from trunnel.settings.relay import LOOPBACK


def write_config(folder: Path, program: str, text: str) -> Path:
    """Write *program*'s file where it is looked for by default."""
    path = folder / "config" / "trunnel" / f"{program}.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def refusal(flags: dict[str, Flag], *, relay: bool = True) -> str:
    """Return why the settings are refused."""
    with pytest.raises(ConfigError) as caught:
        (load_relay if relay else load_agent)(flags)
    return str(caught.value)


# --- layers ----------------------------------------------------------------------------------


def test_without_anything_a_relay_serves_this_machine(tmp_path: Path) -> None:
    settings = load_relay({}).settings
    assert settings.bind_addrs == LOOPBACK
    assert (settings.port, settings.api_port, settings.pub_port) == (None, 4433, 8443)
    assert settings.domain_suffixes == (Hostname("localhost"),)
    assert settings.state_dir == tmp_path / "state" / "trunnel" / "relay"


def test_a_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_relay({}).settings.api_port == 4433
    write_config(tmp_path, "relay", "api_port = 1001\npub_port = 1001")
    monkeypatch.setenv("TRUNNEL_PUB_PORT", "1002")
    assert load_relay({}).settings.api_port == 1001
    assert load_relay({}).settings.pub_port == 1002
    assert load_relay({"pub_port": "1003"}).settings.pub_port == 1003


def test_a_repeated_option_is_replaced_by_a_higher_layer_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, "relay", 'bind_addr = ["127.0.0.1"]')
    monkeypatch.setenv("TRUNNEL_BIND_ADDR", "::1, 127.0.0.2")
    assert load_relay({}).settings.bind_addrs == ("::1", "127.0.0.2")
    assert load_relay({"bind_addr": ["127.0.0.3"]}).settings.bind_addrs == ("127.0.0.3",)


def test_a_switch_can_be_taken_back_by_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_RELAY_TOFU", "yes")
    assert load_agent({}).settings.relay_tofu
    assert not load_agent({"relay_tofu": False}).settings.relay_tofu


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_SERVER", "")
    assert load_agent({}).settings.servers == ()


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_CONFIG", str(tmp_path / "absent.toml"))
    assert "absent.toml: No such file" in refusal({})


def test_keys_may_be_written_with_hyphens(tmp_path: Path) -> None:
    write_config(tmp_path, "agent", 'tls-passthrough = true\nidle-timeout = "5m"\nfirst_byte_timeout = 2.5')
    settings = load_agent({}).settings
    assert settings.tls_passthrough
    assert settings.idle_timeout == 300
    assert settings.first_byte_timeout == 2.5


def test_how_a_program_talks_comes_from_the_same_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, "agent", "json = true")
    monkeypatch.setenv("TRUNNEL_LOG_FORMAT", "json")
    output = load_agent({"log_level": "debug"}).output
    assert (output.json, output.log_level, output.log_format) == (True, LogLevel.DEBUG, LogFormat.JSON)


# --- mistakes --------------------------------------------------------------------------------


def test_an_unknown_key_names_itself_its_file_and_its_neighbour(tmp_path: Path) -> None:
    path = write_config(tmp_path, "relay", 'bind_adr = "::1"')
    assert refusal({}) == f"relay.bind_adr: unknown key in {path}; did you mean bind_addr?"


def test_an_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_SERVR", "x")
    warnings = load_agent({}).warnings
    assert warnings == ("'TRUNNEL_SERVR' in the environment is no option of trunnel; did you mean TRUNNEL_SERVER?",)


def test_variables_of_the_other_program_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_AUTHORIZED_AGENTS", "/x")
    assert load_agent({}).warnings == ()


def test_all_mistakes_are_told_together_with_their_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, "relay", 'pub_port = "many"\nopne = true\nopen = "yes"')
    monkeypatch.setenv("TRUNNEL_DRAIN_GRACE", "soon")
    text = refusal({"bind_addr": ["here"]})
    assert text.startswith("5 settings are wrong:")
    for part in ("(from --bind-addr)", "(from TRUNNEL_DRAIN_GRACE)", "relay.pub_port", "relay.opne", "relay.open:"):
        assert part in text


@pytest.mark.parametrize(
    "line", ["port = true", "port = [1]", "port = {a = 1}", "open = 1", "bind_addr = [true]", "port = 2020-01-01"]
)
def test_a_value_of_the_wrong_shape_is_refused(tmp_path: Path, line: str) -> None:
    write_config(tmp_path, "relay", line)
    assert refusal({}).startswith(f"relay.{line.partition(' ')[0]}:")


@given(content=st.binary(max_size=200) | st.text(alphabet='[]{}="\n.ab1#', max_size=80).map(str.encode))
def test_any_file_is_toml_or_refused_in_our_words(content: bytes) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_config(content, origin="x.toml"), dict)


@pytest.mark.parametrize("content", [b"a = " + b"[" * 50_000, b"a = 1" + b"0" * 5_000, b"\xff"])
def test_hostile_toml_does_not_get_past_the_loader(content: bytes) -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        parse_config(content, origin="x.toml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (limits.CONFIG_FILE_MAX + 1))
    assert "more than" in refusal({"config": str(path)})


# --- the relay -------------------------------------------------------------------------------


def test_a_domain_means_public_bind_one_port_443_and_that_suffix() -> None:
    settings = load_relay({"domain": ["t.example.com"], "open": True}).settings
    assert settings.bind_addrs == EVERY_ADDRESS
    assert settings.port == 443
    assert settings.domain_suffixes == (Hostname("t.example.com"),)


def test_what_a_domain_means_can_be_overruled_one_by_one() -> None:
    flags: dict[str, Flag] = {"domain": ["a.example"], "domain_suffix": ["b.example"], "bind_addr": ["127.0.0.1"]}
    settings = load_relay({**flags, "port": "0"}).settings
    assert settings.bind_addrs == ("127.0.0.1",)
    assert settings.port == 0
    assert settings.domain_suffixes == (Hostname("a.example"), Hostname("b.example"))
    assert load_relay({**flags, "api_port": "1"}).settings.port is None


def test_a_suffix_alone_stays_on_this_machine() -> None:
    settings = load_relay({"domain_suffix": ["t.example.com"]}).settings
    assert settings.bind_addrs == LOOPBACK
    assert settings.port is None


def test_one_port_and_separate_ports_exclude_each_other() -> None:
    assert "separate ports (api-port): choose" in refusal({"port": "1", "api_port": "2"})


@pytest.mark.parametrize("flags", [{"domain": ["t.example.com"]}, {"bind_addr": ["192.0.2.1"]}, {"bind_addr": ["::"]}])
def test_beyond_loopback_it_must_be_said_who_may_connect(flags: dict[str, Flag]) -> None:
    text = refusal(flags)
    assert "refusing to listen beyond this machine" in text
    for fix in (
        "trunnel invite --address HOST",
        "trunnel id",
        "trunnel authorize ID",
        "--authorized-agents FILE",
        "--open",
    ):
        assert fix in text


def test_a_list_or_open_is_enough_to_start(tmp_path: Path) -> None:
    flags: dict[str, Flag] = {"domain": ["t.example.com"]}
    assert load_relay({**flags, "open": True}).settings.authorized_agents is None
    listed = load_relay({**flags, "authorized_agents": str(tmp_path / "list")}).settings
    assert listed.authorized_agents == tmp_path / "list"


def test_the_list_that_authorize_writes_is_found(tmp_path: Path) -> None:
    flags: dict[str, Flag] = {"domain": ["t.example.com"], "state_dir": str(tmp_path)}
    path = load_authorized_path(flags)
    assert path == tmp_path / "authorized"
    path.touch()
    assert load_relay(flags).settings.authorized_agents == path
    assert load_relay({**flags, "open": True}).settings.authorized_agents is None


def test_open_and_a_list_contradict_each_other(tmp_path: Path) -> None:
    assert "choose" in refusal({"open": True, "authorized_agents": str(tmp_path / "list")})


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").touch()
    assert "tls_cert and tls_key go together" in refusal({"tls_cert": str(tmp_path / "cert.pem")})


# --- the agent -------------------------------------------------------------------------------


def test_an_agent_takes_its_target_and_server_from_any_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_LOCAL", "3000")
    config = load_agent({"server": ["relay.example:4433"]})
    assert config.target == Target(port=3000)
    assert config.settings.servers == (ServerAddress("relay.example", 4433),)


def test_a_list_may_be_one_flag_with_commas() -> None:
    assert load_agent({"alpn": ["h2,http/1.1"]}).settings.alpn == ("h2", "http/1.1")


def test_force_h2_is_a_transport() -> None:
    assert load_agent({"force_h2": True}).settings.transport is TransportChoice.H2


def test_a_flag_that_names_a_transport_wins_over_force_h2_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_FORCE_H2", "1")
    assert load_agent({}).settings.transport is TransportChoice.H2
    assert load_agent({"transport": "quic"}).settings.transport is TransportChoice.QUIC
    assert load_agent({"transport": "h2", "force_h2": True}).settings.transport is TransportChoice.H2
    assert "choose one transport" in refusal({"transport": "quic", "force_h2": True}, relay=False)


@pytest.mark.parametrize("word", ["auto", "quic", "h2", "yamux"])
def test_the_words_for_transports(word: str) -> None:
    assert load_agent({"transport": word}).settings.transport is TransportChoice(word)


def test_several_relays_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """By flag, repeated; by variable, with commas; the first one's address is shown first."""
    wanted = (ServerAddress("b.example", 4433), ServerAddress("a.example", 443))
    assert load_agent({"server": ["b.example:4433", "a.example:443"]}).settings.relay_addresses == wanted
    monkeypatch.setenv("TRUNNEL_SERVER", "b.example:4433, a.example:443")
    assert load_agent({}).settings.relay_addresses == wanted


def test_the_size_of_the_pool_is_a_number() -> None:
    assert load_agent({}).settings.pool_size == limits.POOL_SIZE
    assert load_agent({"pool_size": "7"}).settings.pool_size == 7


# --- the way out -----------------------------------------------------------------------------

NEAR, FAR = ServerAddress("relay.example", 443), ServerAddress("other.example", 443)
BOTH: dict[str, Flag] = {"server": [str(NEAR), str(FAR)]}


def ways(flags: dict[str, Flag]) -> dict[str, str]:
    """Return the proxy towards each relay, as text."""
    return {server.host: str(via) for server, via in load_agent(flags).settings.vias.items()}


def test_a_proxy_that_is_asked_for_leads_to_every_relay() -> None:
    via = "socks5h://proxy.example:1080"
    assert ways({**BOTH, "via": via}) == {"relay.example": via, "other.example": via}


def test_the_environments_proxy_leads_where_no_proxy_lets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was asked for wins."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "other.example")
    assert ways(BOTH) == {"relay.example": "http://proxy.example:3128"}
    assert set(ways({**BOTH, "via": "http://mine.example:1"}).values()) == {"http://mine.example:1"}
    assert ways({}) == {}


def test_who_asks_for_quic_does_not_mean_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert ways({**BOTH, "transport": "quic"}) == {}


def test_a_proxy_with_a_password_can_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first line; other processes may read an environment."""
    secret = tmp_path / "via"
    secret.write_text("http://me:secret@proxy.example:3128\nnotes\n")
    monkeypatch.setenv("TRUNNEL_VIA_FILE", str(secret))
    config = load_agent(BOTH)
    via = config.settings.vias[NEAR]
    assert via.credentials is not None
    assert via.credentials.password == "secret"
    assert config.warnings == ()
    monkeypatch.setenv("TRUNNEL_VIA", "http://other.example:1")
    assert set(ways(BOTH).values()) == {"http://other.example:1"}


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "via: No such file"), ("gopher://me:pass@proxy", "not a proxy")]
)
def test_a_secret_file_that_cannot_be_used_is_told_without_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, reason: str
) -> None:
    secret = tmp_path / "via"
    if content is not None:
        secret.write_text(content)
    monkeypatch.setenv("TRUNNEL_VIA_FILE", str(secret))
    text = refusal({}, relay=False)
    assert reason in text
    assert text.endswith("(from TRUNNEL_VIA_FILE)")
    assert "pass" not in text


def test_an_empty_secret_file_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "via").touch()
    monkeypatch.setenv("TRUNNEL_VIA_FILE", str(tmp_path / "via"))
    assert ways(BOTH) == {}


def test_data_session_is_a_choice() -> None:
    assert load_agent({"data": "session"}).settings.data is DataChoice.SESSION


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"transport": "tcp"}, "not one of: auto, quic, h2, yamux"),
        ({"pool_size": "9"}, "more than the 8 connections"),
        ({"pool_size": "0"}, "not a whole number from 1"),
        ({"via": "ftp://proxy"}, "not a proxy that can be used"),
        ({"via": "http://proxy", "transport": "quic"}, "QUIC does not go through it"),
        ({"data": "fast"}, "not one of: auto, direct, session"),
        ({"server": ["a.example", "b.example", "a.example"]}, "the same relay is named twice"),
        ({"relay_tofu": True, "relay_strict": True}, "contradict"),
        ({"relay_pin": "abc"}, "not a pin"),
        ({"local": "https://x"}, "--tls-passthrough"),
    ],
)
def test_what_an_agent_cannot_do_is_refused(flags: dict[str, Flag], part: str) -> None:
    assert part in refusal(flags, relay=False)


def test_a_pin_and_a_ca_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    flags: dict[str, Flag] = {"relay_pin": "ab" * 32, "relay_ca": str(tmp_path / "ca.pem")}
    assert "choose: a pin" in refusal(flags, relay=False)
