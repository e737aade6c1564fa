"""Settings: `agent.toml` overrides the defaults, the command line overrides both, and errors name the file."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edge_agent.settings import ChooseBy, Settings, TransportChoice, load_settings
from edgewright.errors import BadInputError
from tests.edge_agent.conftest import Device


def write(folder: Path, text: str) -> Path:
    (folder / "agent.toml").write_text(text)
    return folder


def test_without_a_file_the_defaults_apply(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()


def test_the_command_line_overrides_the_file_and_the_file_overrides_the_defaults(tmp_path: Path) -> None:
    settings = load_settings(
        write(tmp_path, 'port = 9000\ntransport = "mqtt"\nthreads = 2\nnpu_device = "none"\n'), transport="https"
    )
    assert (settings.port, settings.transport, settings.threads, settings.npu_device) == (9000, TransportChoice.HTTPS, 2, "none")


def test_the_rule_of_choice_is_set_in_the_file_or_on_the_command_line(tmp_path: Path) -> None:
    assert load_settings(tmp_path).choose is ChooseBy.PROFILE
    assert load_settings(tmp_path, choose="measured").choose is ChooseBy.MEASURED
    write(tmp_path, 'choose = "measured"')
    assert load_settings(tmp_path).choose is ChooseBy.MEASURED
    assert load_settings(tmp_path, choose="profile").choose is ChooseBy.PROFILE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("prot = 1", "'prot' is not a setting; use one of port, transport", id="unknown"),
        pytest.param("port = 70000", "port must be between 0 and 65535, not 70000", id="port"),
        pytest.param("retry_base_s = 0", "retry_base_s must be positive, not 0", id="zero"),
        pytest.param('transport = "pigeon"', "Invalid enum value 'pigeon'", id="transport"),
        pytest.param('choose = "dice"', "Invalid enum value 'dice'", id="choose"),
        pytest.param(
            "[iothub]\nping_s = 1", "[iothub] must have one of connection_string, id_scope and edge = true", id="no identity"
        ),
        pytest.param(
            '[iothub]\nconnection_string = "HostName=h;SharedAccessKey=AAAA"',
            "the connection string of a device or module must have HostName, DeviceId, SharedAccessKey; without: DeviceId",
            id="malformed connection string",
        ),
        pytest.param(
            '[iothub]\nconnection_string = "HostName=h;DeviceId=d;SharedAccessKey=secret"',
            "SharedAccessKey of the connection string must be base64 of 16 to 64 bytes, but it is not",
            id="key of a connection string",
        ),
        pytest.param(
            '[iothub]\nconnection_string = "HostName=h;DeviceId=d;x509=true"',
            "iothub.certificate must be the file of the device's certificate, because x509=true has no key",
            id="no certificate",
        ),
        pytest.param(
            '[iothub]\nid_scope = "0ne1"', "id_scope needs either iothub.symmetric_key or iothub.certificate", id="no credential"
        ),
        pytest.param(
            '[iothub]\nid_scope = "0ne1"\nsymmetric_key = "secret"',
            "iothub.symmetric_key must be base64 of 16 to 64 bytes, but it is not",
            id="symmetric key",
        ),
        pytest.param("[iothub]\npign_s = 1", "'iothub.pign_s' is not a setting", id="unknown in a table"),
        pytest.param('port = "http"', "Expected `int`, got `str`", id="type"),
        pytest.param("port =", "must be TOML", id="not toml"),
    ],
)
def test_an_error_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError) as error:
        load_settings(write(tmp_path, text))
    assert message in str(error.value)
    assert "agent.toml" in str(error.value)


def test_a_port_in_use_is_one_line_and_exit_2(device: Device) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        finished = device.command("run", "--port", str(port))
    assert finished.returncode == 2
    assert finished.stderr == (
        f"edgewright: port {port} must be free for scoring, but it is not (Address already in use): choose another --port\n"
    )


def test_an_iot_hub_without_an_identity_is_one_line_and_exit_2(device: Device) -> None:
    finished = device.command("run", "--transport", "iothub")
    assert finished.returncode == 2
    assert finished.stderr == "edgewright: transport iothub needs the table [iothub] in agent.toml, but it is missing\n"
