"""The local IoT Hub under 20 of Azure's device clients: messages per second, every one acknowledged after it is on the disk.

The clients run in a process of their own, in the environment that `make components` creates. A second figure comes from clients
that cost little processor time, for the speed of the hub alone: they write packets that were made before.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from edgewright.contracts.iothub import sas
from tests.support.running_hub import RunningHub, running_hub

CLIENTS = 20
MESSAGES = 400
RAW_MESSAGES = 4000
SENDING = Path(__file__).parent / "iothub_peers" / "sending.py"


def main() -> None:
    """Measure and print one table."""
    python = Path(sys.prefix) / "clients" / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder, running_hub(Path(folder)) as hub:
        service = hub.client()
        devices = [service.call("PUT", f"/devices/device-{number}", {}) for number in range(CLIENTS)]
        keys = [each["authentication"]["symmetricKey"]["primaryKey"] for each in devices]
        print(f"{CLIENTS} clients, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        if python.is_file():
            report(hub, "azure-iot-device", *with_library(hub, python, [service.connection_string(each) for each in devices]))
        else:
            print(f"azure-iot-device is left out: {python} does not exist, make components installs it")
        report(hub, "prepared packets", CLIENTS * RAW_MESSAGES, with_packets(hub, keys))


def report(hub: RunningHub, name: str, count: int, seconds: float) -> None:
    """Print the rate, and the processor time of the hub so far."""
    assert hub.process is not None
    fields = Path(f"/proc/{hub.process.pid}/stat").read_text().rpartition(")")[2].split()
    used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    detail = f"{count} in {seconds:.2f} s; the hub has used {used_s:.1f} s of processor time"
    print(f"{name:18} {count / seconds:8.0f} messages/s ({detail})")


def with_library(hub: RunningHub, python: Path, texts: list[str]) -> tuple[int, float]:
    """Return the number of messages that Azure's client library has sent, and the time."""
    command = [str(python), str(SENDING), str(MESSAGES), str(hub.ca)]
    done = subprocess.run(command, input="\n".join(texts), text=True, capture_output=True, check=True)
    measured = json.loads(done.stdout)
    print(f"{'azure-iot-device':18} {measured['connect_s']:8.2f} s to connect all clients one after the other")
    return CLIENTS * MESSAGES, measured["send_s"]


def with_packets(hub: RunningHub, keys: list[str]) -> float:
    """Return the time until every prepared packet was acknowledged."""
    threads = [threading.Thread(target=raw_client, args=(hub, f"device-{number}", key)) for number, key in enumerate(keys)]
    started = time.monotonic()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return time.monotonic() - started


def raw_client(hub: RunningHub, device: str, key: str) -> None:
    """Connect, write all packets, and read until the last acknowledgement."""
    token = sas.create(f"{hub.host}/devices/{device}", key, int(time.time()) + 3600)
    user = f"{hub.host}/{device}/?api-version=2021-04-12"
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + b"".join(text(each) for each in (device, user, token))
    topic = text(f"devices/{device}/messages/events/")
    packets = [packet(0x32, topic + number.to_bytes(2, "big") + b'{"celsius": 41.5}') for number in range(1, RAW_MESSAGES + 1)]
    context = ssl.create_default_context(cafile=str(hub.ca))
    with socket.create_connection((hub.host, 8883)) as plain, context.wrap_socket(plain, server_hostname=hub.host) as connection:
        connection.sendall(packet(0x10, body))
        writer = threading.Thread(target=connection.sendall, args=(b"".join(packets),))
        writer.start()
        expected = 4 + 4 * RAW_MESSAGES
        while expected > 0:
            expected -= len(connection.recv(65536))
        writer.join()


def text(value: str) -> bytes:
    """Return a text field of a packet."""
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def packet(first: int, body: bytes) -> bytes:
    """Return a packet with its length."""
    length, out = len(body), bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes((first,)) + bytes(out) + body


if __name__ == "__main__":
    main()
