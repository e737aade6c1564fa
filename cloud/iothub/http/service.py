"""The routes of IoT Hub's service API: identities, twins, methods, messages to devices; and telemetry.

Source: REST API of IoT Hub, version 2021-04-12. The route of telemetry is the hub's own, since IoT Hub offers telemetry over AMQP
only. Messages to devices are accepted over HTTP for the same reason.
"""

from __future__ import annotations

import base64
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cloud.iothub import methods
from cloud.iothub.deployments.configurations import Configurations
from cloud.iothub.devices import identities, twins
from cloud.iothub.devices.identities import Identity
from cloud.iothub.http import configurations as configuration_routes
from cloud.iothub.http import device, provisioning
from cloud.iothub.http.device import Uploads
from cloud.iothub.http.requests import Access, Answer, Call, Handler, Right, answering, refuse
from cloud.iothub.hub import Hub
from cloud.iothub.provisioning.enrolments import Enrolments
from cloud.iothub.queues import DEFAULT_VALID_S
from cloud.iothub.refusal import RefusalError, bad_argument

MAX_DEVICES = 1000
"""Identities in one answer, as in IoT Hub."""
MAX_EVENTS = 1000
MAX_WAIT_S = 60


def create(access: Access, uploads: Uploads, enrolments: Enrolments, configurations: Configurations) -> Starlette:
    """Return the application with all routes."""
    return Starlette(
        routes=[
            *device.routes(uploads),
            *provisioning.routes(access, enrolments),
            *configuration_routes.routes(access, configurations),
            *routes(access),
            Route("/{path:path}", _unknown),
        ]
    )


def routes(access: Access) -> list[Route]:
    """Return the routes with their rights."""
    one_device, module = "/devices/{device}", "/devices/{device}/modules/{module}"
    twin, module_twin = "/twins/{device}", "/twins/{device}/modules/{module}"
    read, write, service = Right.REGISTRY_READ, Right.REGISTRY_WRITE, Right.SERVICE
    table: list[tuple[str, str, Right, Handler]] = [
        ("GET", "/devices", read, _list_devices),
        ("GET", "/statistics/devices", read, _device_statistics),
        ("GET", "/statistics/service", service, _service_statistics),
        ("GET", f"{one_device}/modules", read, _list_modules),
        ("DELETE", f"{one_device}/commands", service, _purge),
        ("POST", "/messages/devicebound", service, _send_message),
        ("GET", "/messages/events", service, _read_events),
        ("GET", "/certificates", read, _list_certificates),
        ("POST", "/certificates", write, _add_certificate),
        ("DELETE", "/certificates/{thumbprint}", write, _remove_certificate),
    ]
    for path in (one_device, module):
        table += [("GET", path, read, _get), ("PUT", path, write, _put), ("DELETE", path, write, _delete)]
    for path in (twin, module_twin):
        table += [
            ("GET", path, service, _get_twin),
            ("PATCH", path, service, _patch_twin),
            ("PUT", path, service, _replace_twin),
            ("POST", f"{path}/methods", service, _invoke),
        ]
    return [
        Route(path, answering(access, right, handler, allows_device=path in (module, f"{one_device}/modules")), methods=[method])
        for method, path, right, handler in table
    ]


async def _unknown(request: Request) -> Response:
    return refuse(RefusalError(404, "ResourceNotFound", f"the hub has no {request.method} {request.url.path[:200]}"))


async def _list_devices(call: Call) -> Answer:
    found = call.hub.registry.devices()[: call.number("top", MAX_DEVICES, MAX_DEVICES)]
    return Answer([_shown(call.hub, each) for each in found])


async def _list_modules(call: Call) -> Answer:
    return Answer([_shown(call.hub, each) for each in call.hub.registry.modules(call.name())])


async def _get(call: Call) -> Answer:
    return _with_etag(_shown(call.hub, call.hub.registry.identity(call.name())))


async def _put(call: Call) -> Answer:
    name, request = call.name(), call.json()
    for field, part in zip(("deviceId", "moduleId"), name.split("/"), strict=False):
        if request.get(field, part) != part:
            raise bad_argument(f"{field} in the body must be {part}, as in the path")
    registry = call.hub.registry
    changed = registry.update(name, request, call.etag()) if call.etag() else registry.create(name, request)
    return _with_etag(_shown(call.hub, changed))


async def _delete(call: Call) -> Answer:
    call.hub.registry.delete(call.name(), call.etag())
    return Answer(status=204)


async def _get_twin(call: Call) -> Answer:
    return _with_etag(_shown_twin(call.hub, call.name()))


async def _patch_twin(call: Call) -> Answer:
    call.hub.registry.change_twin(call.name(), call.json(), call.etag())
    return _with_etag(_shown_twin(call.hub, call.name()))


async def _replace_twin(call: Call) -> Answer:
    call.hub.registry.change_twin(call.name(), call.json(), call.etag(), replaces=True)
    return _with_etag(_shown_twin(call.hub, call.name()))


async def _invoke(call: Call) -> Answer:
    call.hub.registry.identity(call.name())
    return Answer(await call.hub.methods.invoke(call.name(), methods.Call.from_json(call.json())))


async def _purge(call: Call) -> Answer:
    name = call.hub.registry.identity(call.name()).name
    return Answer({"deviceId": name, "moduleId": None, "totalMessagesPurged": call.hub.queues.purge(name)})


async def _send_message(call: Call) -> Answer:
    headers = call.request.headers
    parts = headers.get("iothub-to", "").strip("/").split("/")
    if len(parts) < 2 or parts[0] != "devices":
        raise bad_argument("the header iothub-to must be /devices/ID/messages/devicebound")
    name = call.hub.registry.identity(parts[1]).name
    system = {
        "$.mid": "iothub-messageid",
        "$.cid": "iothub-correlationid",
        "$.uid": "iothub-userid",
        "$.ct": "iothub-contenttype",
    }
    properties = {key: headers[header] for key, header in system.items() if header in headers}
    properties |= {key.removeprefix("iothub-app-"): value for key, value in headers.items() if key.startswith("iothub-app-")}
    valid_s = headers.get("iothub-expiry", f"{DEFAULT_VALID_S:g}")
    if not valid_s.isdigit():
        raise bad_argument(f"the header iothub-expiry must be a number of seconds, not {valid_s[:40]!r}")
    message_id = call.hub.queues.add(name, call.raw, properties, valid_s=float(valid_s))
    return Answer({"messageId": message_id}, 202)


async def _read_events(call: Call) -> Answer:
    after = call.number("after", call.hub.store.last_number, 2**62)
    limit, wait_s = call.number("limit", MAX_EVENTS, MAX_EVENTS), call.number("wait", 0, MAX_WAIT_S)
    events = await call.hub.store.events(after=after, limit=limit, wait_s=wait_s)
    shown = [
        {
            "number": each.number,
            "identity": each.identity,
            "enqueuedTime": each.enqueued_at,
            "properties": each.properties,
            "body": base64.b64encode(each.body).decode("ascii"),
        }
        for each in events
    ]
    return Answer({"events": shown, "after": events[-1].number if events else after})


async def _list_certificates(call: Call) -> Answer:
    return Answer(call.hub.certificates.descriptions())


async def _add_certificate(call: Call) -> Answer:
    return Answer(call.hub.certificates.add(call.raw), 201)


async def _remove_certificate(call: Call) -> Answer:
    call.hub.certificates.remove(call.request.path_params["thumbprint"])
    return Answer(status=204)


async def _device_statistics(call: Call) -> Answer:
    found = call.hub.registry.devices()
    enabled = sum(each.is_enabled for each in found)
    return Answer({"totalDeviceCount": len(found), "enabledDeviceCount": enabled, "disabledDeviceCount": len(found) - enabled})


async def _service_statistics(call: Call) -> Answer:
    return Answer({"connectedDeviceCount": call.hub.links.count(), "sharedIdentities": call.hub.links.shared})


def _shown(hub: Hub, identity: Identity) -> dict[str, Any]:
    return identities.to_rest(identity, **hub.state_of(identity.name))


def _shown_twin(hub: Hub, name: str) -> dict[str, Any]:
    return twins.to_rest(hub.registry.identity(name), hub.registry.twin(name), **hub.state_of(name))


def _with_etag(body: dict[str, Any]) -> Answer:
    return Answer(body, headers={"ETag": f'"{body["etag"]}"'})
