"""Calls of Azure's `azure-iot-device` and `azure-iot-hub`, which run in an environment of their own.

`python -m tests.support.azure_iot_calls SCENARIO…`: the first line of standard input is a JSON object: `service` (the owner's
connection string), `ca` (a PEM file) and what the scenarios need. The result is one JSON object on standard output.
REQUESTS_CA_BUNDLE must name the PEM file, for the service library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import requests
from azure.iot.device import X509, IoTHubDeviceClient, Message, ProvisioningDeviceClient
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

from tests.support.azure_iot_configurations import configurations, pushed
from tests.support.azure_iot_hub import WAIT_S, Hub, Received


def identities(hub: Hub) -> dict[str, Any]:
    """Exchange everything with a device, a second device and a module at the same time."""
    names = {"press-1": (None,), "press-2": (None,), "press-1/camera": ("camera",)}
    clients = {name: hub.client(hub.create(name.partition("/")[0], *module)) for name, module in names.items()}
    received = {name: Received(client, name) for name, client in clients.items()}
    out: dict[str, Any] = {name: {} for name in names}
    for name, client in clients.items():
        device, _, module = name.partition("/")
        patch = Twin(tags={"site": name}, properties=TwinProperties(desired={"for": name, "nested": {"a": 1}}))
        changed = _update_twin(hub, device, module, patch)
        got = out[name]
        got["patch"] = received[name].patches.get(timeout=WAIT_S)
        client.patch_twin_reported_properties({"by": name, "nested": {"x": 1, "gone": None}})
        got["twin"] = client.get_twin()
        got["reported"] = _get_twin(hub, device, module).properties.reported
        got["etag changes"] = changed.etag != _update_twin(hub, device, module, Twin(tags={"again": 1})).etag
        call = CloudToDeviceMethod(method_name="do it", payload={"q": 1}, response_timeout_in_seconds=60)
        answer = (
            hub.registry.invoke_device_module_method(device, module, call)
            if module
            else hub.registry.invoke_device_method(device, call)
        )
        got["method"] = [answer.status, answer.payload]
        message = Message(f"telemetry of {name}", content_encoding="utf-8", content_type="application/json", message_id="m1")
        message.custom_properties["k"] = "a b+c/é&="
        client.send_message(message)
    clients["press-1/camera"].send_message_to_output(Message("seen"), "frames")
    hub.send("press-2", b"only press-2", colour="red")
    out["press-2"]["message"] = received["press-2"].message()
    for name, client in clients.items():
        out[name]["further patches"] = received[name].patches.qsize()
        out[name]["methods"] = list(received[name].methods.queue)
        out[name]["further messages"] = received[name].messages.qsize()
        client.shutdown()
    out["events"] = [[each["identity"], each["properties"], base64.b64decode(each["body"]).decode()] for each in hub.events()]
    out["listed"] = [each.device_id for each in hub.registry.get_devices()]
    return out


def agent(hub: Hub) -> dict[str, Any]:
    """Call a running agent, and read what it reported."""
    device = hub.given["device"]
    call = CloudToDeviceMethod(method_name="status", payload=None, response_timeout_in_seconds=60)
    answer = hub.registry.invoke_device_method(device, call)
    return {
        "method": [answer.status, answer.payload],
        "reported": hub.registry.get_twin(device).properties.reported["edgewright"],
    }


def _update_twin(hub: Hub, device: str, module: str, patch: Twin) -> Any:
    if module:
        return hub.registry.update_module_twin(device, module, patch, "*")
    return hub.registry.update_twin(device, patch, "*")


def _invoke(hub: Hub, device: str, module: str, call: CloudToDeviceMethod) -> Any:
    if module:
        return hub.registry.invoke_device_module_method(device, module, call)
    return hub.registry.invoke_device_method(device, call)


def _get_twin(hub: Hub, device: str, module: str) -> Any:
    return hub.registry.get_module_twin(device, module) if module else hub.registry.get_twin(device)


def offline(hub: Hub) -> dict[str, Any]:
    """Send messages to a device while it is offline."""
    text = hub.create("offline")
    client = hub.client(text)
    received = Received(client, "offline")
    hub.send("offline", b"first")
    got = [received.message()]
    client.disconnect()
    hub.send("offline", b"second")
    hub.send("offline", b"third", n="3")
    waiting = hub.registry.get_device("offline").cloud_to_device_message_count
    client.connect()
    got += [received.message(), received.message()]
    client.shutdown()
    return {"received": got, "waiting": waiting}


def refusals(hub: Hub) -> dict[str, Any]:
    """Return the exception of each client that must be refused."""
    text = hub.create("gate")
    other = hub.create("other").rpartition("SharedAccessKey=")[2]
    wrong = base64.b64encode(b"x" * 32).decode()
    out = {
        "wrong key": _failure(hub, hub.string("gate", wrong)),
        "unknown device": _failure(hub, hub.string("ghost", wrong)),
        "key of another device": _failure(hub, hub.string("gate", other)),
        "expired token": _expired(hub, text),
    }
    hub.registry.update_device_with_sas("gate", "*", text.rpartition("SharedAccessKey=")[2], other, "disabled")
    out["disabled device"] = _failure(hub, text)
    try:
        IoTHubDeviceClient.create_from_connection_string(text, connection_retry=False).connect()
    except Exception as error:  # noqa: BLE001  any failure is the result
        out["unknown authority"] = type(error).__name__
    return out


def _failure(hub: Hub, text: str) -> str:
    client = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=hub.ca, connection_retry=False)
    return _connect_failure(client)


def _connect_failure(client: Any) -> str:
    try:
        client.connect()
    except Exception as error:  # noqa: BLE001  any failure is the result
        return type(error).__name__
    finally:
        client.shutdown()
    return "connected"


def _expired(hub: Hub, text: str) -> str:
    resource = f"{hub.host}%2Fdevices%2Fgate"
    key = base64.b64decode(text.rpartition("SharedAccessKey=")[2])
    signature = base64.b64encode(hmac.new(key, f"{resource}\n1700000000".encode(), hashlib.sha256).digest()).decode()
    token = f"SharedAccessSignature sr={resource}&sig={quote(signature, safe='')}&se=1700000000"
    answer = requests.get(
        f"https://{hub.rest_host}/devices?api-version=2021-04-12", headers={"Authorization": token}, timeout=WAIT_S
    )
    return f"{answer.status_code} {answer.json()['Message'].partition(';')[0]}"


def rotation(hub: Hub) -> dict[str, Any]:
    """Replace both keys of a device one after the other, while a client uses the other one."""
    hub.create("rotated")
    device = hub.registry.get_device("rotated")
    primary, secondary = device.authentication.symmetric_key.primary_key, device.authentication.symmetric_key.secondary_key
    new = base64.b64encode(b"n" * 32).decode()
    hub.client(hub.string("rotated", secondary)).shutdown()
    hub.registry.update_device_with_sas("rotated", device.etag, new, secondary, "enabled")
    hub.client(hub.string("rotated", secondary)).shutdown()
    hub.client(hub.string("rotated", new)).shutdown()
    out = {"old primary": _failure(hub, hub.string("rotated", primary))}
    try:
        hub.registry.update_device_with_sas("rotated", device.etag, new, new, "enabled")
    except Exception as error:  # noqa: BLE001  any failure is the result
        out["old etag"] = str(vars(error)["response"].status_code)
    return out


def survivors(hub: Hub) -> dict[str, Any]:
    """Send from several devices while the hub is killed and started again; standard input says when it has been started."""
    names = [f"survivor-{number}" for number in range(3)]
    clients = {name: hub.client(hub.create(name), connection_retry_interval=1) for name in names}
    received = {name: Received(client, name) for name, client in clients.items()}
    acknowledged: dict[str, list[str]] = {name: [] for name in names}
    stop, progressed = threading.Event(), threading.Condition()

    def keep_sending(name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                clients[name].send_message(Message(f"{name} {number}"))
            except Exception:  # noqa: BLE001  sent again
                stop.wait(0.05)
                continue
            with progressed:
                acknowledged[name].append(f"{name} {number}")
                progressed.notify_all()

    def all_have(count: int) -> None:
        with progressed:
            assert progressed.wait_for(lambda: all(len(each) >= count for each in acknowledged.values()), WAIT_S)

    threads = [threading.Thread(target=keep_sending, args=(name,)) for name in names]
    for each in threads:
        each.start()
    all_have(20)
    print("sending", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    before = {name: len(each) for name, each in acknowledged.items()}
    all_have(max(before.values()) + 3)
    back_s = time.monotonic() - started
    stop.set()
    for each in threads:
        each.join()
    hub.send(names[0], b"after the restart")
    got = received[names[0]].message()
    for client in clients.values():
        client.shutdown()
    return {"acknowledged": acknowledged, "back_s": back_s, "message": got}


def certificates(hub: Hub) -> dict[str, Any]:
    """Connect with certificates: `certificates` has PEM files of certificate and key by device."""
    out = {}
    for name, (certificate, key) in hub.given["certificates"].items():
        device = name.partition(" ")[0]
        x509 = X509(certificate, key)
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509, hub.host, device, server_verification_cert=hub.ca, connection_retry=False
        )
        out[name] = _connect_failure(client)
    return out


def websockets(hub: Hub) -> dict[str, Any]:
    """Exchange messages over websockets, and hand a file upload over to a storage."""
    client = hub.client(hub.create("proxied"), websockets=True)
    received = Received(client, "proxied")
    hub.send("proxied", b"x" * 60000)
    got = received.message()
    client.send_message(Message("y" * 200000))
    twin = client.get_twin()["desired"]
    place = client.get_storage_info_for_blob("log.txt")
    client.notify_blob_upload_status(place["correlationId"], True, 200, "done")
    client.shutdown()
    events = [base64.b64decode(each["body"]).decode() for each in hub.events() if each["identity"] == "proxied"]
    return {"received": len(got[0]), "twin": twin, "place": place, "events": events}


def provisioning(hub: Hub) -> dict[str, Any]:
    """Register devices with keys and certificates, and connect them as the devices that they became."""
    os.environ["SSL_CERT_FILE"] = hub.given["ca"]  # this client has no option for the authority
    out: dict[str, Any] = {}
    for name, credential in hub.given["registrations"].items():
        registration = name.partition(" ")[0]
        x509 = X509(*credential) if isinstance(credential, list) else None
        options = {"provisioning_host": hub.host, "registration_id": registration, "id_scope": hub.given["scope"]}
        if x509 is not None:
            client = ProvisioningDeviceClient.create_from_x509_certificate(x509=x509, **options)
        else:
            client = ProvisioningDeviceClient.create_from_symmetric_key(symmetric_key=credential, **options)
        try:
            state = client.register().registration_state
        except Exception as error:  # noqa: BLE001  any failure is the result
            out[name] = type(error).__name__
            continue
        out[name] = [state.device_id, state.assigned_hub, _own_twin(hub, state, credential, x509)]
    return out


def _own_twin(hub: Hub, state: Any, credential: Any, x509: Any) -> Any:
    options = {"hostname": state.assigned_hub, "device_id": state.device_id, "server_verification_cert": hub.ca}
    if x509 is not None:
        device = IoTHubDeviceClient.create_from_x509_certificate(x509=x509, **options)
    else:
        device = IoTHubDeviceClient.create_from_symmetric_key(symmetric_key=credential, **options)
    device.connect()
    try:
        return device.get_twin()["desired"]
    finally:
        device.shutdown()


SCENARIOS: dict[str, Callable[[Hub], dict[str, Any]]] = {
    "agent": agent,
    "identities": identities,
    "offline": offline,
    "refusals": refusals,
    "rotation": rotation,
    "survivors": survivors,
    "certificates": certificates,
    "configurations": configurations,
    "provisioning": provisioning,
    "pushed": pushed,
    "websockets": websockets,
}


def main() -> None:
    """Run the scenarios of the arguments and print their results by name."""
    hub = Hub(json.loads(sys.stdin.readline()))
    print(json.dumps({name: SCENARIOS[name](hub) for name in sys.argv[1:]}, default=str))


if __name__ == "__main__":
    main()
