"""Connect and send with `azure-iot-device`: `python sending.py COUNT CA < connection strings`; prints seconds as JSON.

Every client sends with several threads, because `send_message` returns only when the hub has stored the message.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from azure.iot.device import IoTHubDeviceClient, Message

THREADS = 4


def send(client: Any, count: int) -> None:
    """Send messages one after the other."""
    for number in range(count):
        client.send_message(Message(json.dumps({"number": number, "celsius": 41.5})))


def main() -> None:
    """Connect one client per connection string, then send COUNT messages with each."""
    count, ca = int(sys.argv[1]), Path(sys.argv[2]).read_text()
    texts = sys.stdin.read().split()
    started = time.monotonic()
    clients = [IoTHubDeviceClient.create_from_connection_string(each, server_verification_cert=ca) for each in texts]
    for client in clients:
        client.connect()
    connected = time.monotonic()
    threads = [threading.Thread(target=send, args=(client, count // THREADS)) for client in clients for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = time.monotonic()
    for client in clients:
        client.shutdown()
    print(json.dumps({"connect_s": connected - started, "send_s": sent - connected}))


if __name__ == "__main__":
    main()
