"""A hub as Azure's client libraries see it; runs in their environment (`azure_iot_calls.py`)."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import requests
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.sastoken import SasToken

WAIT_S = 60.0


class Hub:
    """The service library, and the connection strings of new identities."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.ca = Path(given["ca"]).read_text()
        self.parts = dict(part.split("=", 1) for part in given["service"].split(";"))
        self.rest_host = self.parts["HostName"]
        self.host = self.rest_host.partition(":")[0]
        self.registry = IoTHubRegistryManager.from_connection_string(given["service"])

    def create(self, device: str, module: str | None = None) -> str:
        """Create an identity with the service library and return its connection string."""
        if module:
            made = self.registry.create_module_with_sas(device, module, "test", "", "")
        else:
            made = self.registry.create_device_with_sas(device, "", "", "enabled")
        return self.string(device, made.authentication.symmetric_key.primary_key, module)

    def string(self, device: str, key: str, module: str | None = None) -> str:
        suffix = f"ModuleId={module};" if module else ""
        return f"HostName={self.host};DeviceId={device};{suffix}SharedAccessKey={key}"

    def client(self, text: str, **options: Any) -> Any:
        """Return a connected client of a connection string."""
        kind = IoTHubModuleClient if "ModuleId" in text else IoTHubDeviceClient
        client = kind.create_from_connection_string(text, server_verification_cert=self.ca, **options)
        client.connect()
        return client

    def headers(self) -> dict[str, str]:
        return {"Authorization": str(SasToken(self.rest_host, self.parts["SharedAccessKey"], self.parts["SharedAccessKeyName"]))}

    def send(self, device: str, body: bytes, **properties: str) -> None:
        """Send a message to a device."""
        headers = {**self.headers(), "iothub-to": f"/devices/{device}/messages/devicebound"}
        headers |= {f"iothub-app-{name}": value for name, value in properties.items()}
        url = f"https://{self.rest_host}/messages/devicebound?api-version=2021-04-12"
        requests.post(url, data=body, headers=headers, timeout=WAIT_S).raise_for_status()

    def events(self) -> list[dict[str, Any]]:
        """Return all stored telemetry."""
        url = f"https://{self.rest_host}/messages/events?api-version=2021-04-12&after=0"
        found: list[dict[str, Any]] = requests.get(url, headers=self.headers(), timeout=WAIT_S).json()["events"]
        return found


class Received:
    """The patches, calls and messages that one client got."""

    def __init__(self, client: Any, name: str) -> None:
        self.patches: queue.Queue[Any] = queue.Queue()
        self.methods: queue.Queue[str] = queue.Queue()
        self.messages: queue.Queue[Any] = queue.Queue()
        self._client, self._name = client, name
        client.on_twin_desired_properties_patch_received = self.patches.put
        client.on_method_request_received = self._answer
        client.on_message_received = self.messages.put

    def _answer(self, request: Any) -> None:
        self.methods.put(request.name)
        answer = {"from": self._name, "echo": request.payload}
        self._client.send_method_response(MethodResponse.create_from_method_request(request, 203, answer))

    def message(self) -> list[Any]:
        got = self.messages.get(timeout=WAIT_S)
        return [got.data.decode(), dict(got.custom_properties)]
