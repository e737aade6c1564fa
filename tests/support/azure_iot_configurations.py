"""Configurations and queries with `azure-iot-hub`; runs in its environment (`azure_iot_calls.py`)."""

from __future__ import annotations

from typing import Any

from azure.iot.hub import IoTHubConfigurationManager
from azure.iot.hub.models import (
    Configuration,
    ConfigurationContent,
    ConfigurationMetrics,
    ConfigurationQueriesTestInput,
    QuerySpecification,
    Twin,
)

from tests.support.azure_iot_hub import WAIT_S, Hub, Received


def configurations(hub: Hub) -> dict[str, Any]:
    """Configure devices by their tags, and deploy layered manifests to an IoT Edge device."""
    manager = IoTHubConfigurationManager.from_connection_string(hub.given["service"])
    out: dict[str, Any] = {}
    client = hub.client(hub.create("north-1"))
    received = Received(client, "north-1")
    hub.create("south-1")
    hub.registry.update_twin("north-1", Twin(tags={"site": "north"}), "*")
    hub.registry.update_twin("south-1", Twin(tags={"site": "south"}), "*")

    def configure(name: str, priority: int, condition: str, **content: Any) -> Any:
        wanted = Configuration(
            id=name,
            schema_version="2.0",
            priority=priority,
            target_condition=condition,
            content=ConfigurationContent(**content),
            metrics=ConfigurationMetrics(queries={"slow": "SELECT deviceId FROM devices WHERE properties.reported.slow = true"}),
        )
        return manager.create_configuration(wanted)

    configure("low", 1, "*", device_content={"properties.desired.poll.interval_s": 60, "properties.desired.level": "low"})
    configure("north", 5, "tags.site = 'north'", device_content={"properties.desired.poll.interval_s": 5})
    out["north"], out["south"] = (_desired(hub, name) for name in ("north-1", "south-1"))
    out["patches"] = [received.patches.get(timeout=WAIT_S), received.patches.get(timeout=WAIT_S)]
    client.patch_twin_reported_properties({"slow": True})
    shown = manager.get_configuration("north")
    out["metrics"] = [shown.system_metrics.results, shown.metrics.results]
    manager.delete_configuration("north")
    out["north after deletion"] = _desired(hub, "north-1")
    tested = manager.test_configuration_queries(ConfigurationQueriesTestInput(target_condition="tags.site =="))
    out["test"] = tested.target_condition_error
    client.shutdown()

    hub.registry.create_device_with_sas("gateway", "", "", "enabled", iot_edge=True)
    agent = {"modules": {"camera": {"version": 1}}, "schemaVersion": "1.1"}
    base = {"$edgeAgent": {"properties.desired": agent}, "$edgeHub": {"properties.desired": {"routes": {}}}}
    manager.apply_configuration_on_edge_device("gateway", ConfigurationContent(modules_content=base))
    out["single"] = hub.registry.get_module_twin("gateway", "$edgeAgent").properties.desired["modules"]
    layer = {"$edgeAgent": {"properties.desired.modules.ocr": {"version": 2}}, "ocr": {"properties.desired.lines": 3}}
    configure("edge-base", 1, "capabilities.iotEdge = true", modules_content=base)
    configure("edge-ocr", 2, "deviceId = 'gateway'", modules_content=layer)
    out["layered"] = hub.registry.get_module_twin("gateway", "$edgeAgent").properties.desired["modules"]
    out["module"] = hub.registry.get_module_twin("gateway", "ocr").properties.desired["lines"]
    out["modules"] = sorted(each.module_id for each in hub.registry.get_modules("gateway"))
    out["applied"] = manager.get_configuration("edge-ocr").system_metrics.results
    manager.delete_configuration("edge-ocr")
    out["modules without the layer"] = sorted(each.module_id for each in hub.registry.get_modules("gateway"))
    found = hub.registry.query_iot_hub(QuerySpecification(query="SELECT * FROM devices WHERE tags.site IN ['south', 'west']"))
    out["queried"] = [each.device_id for each in found.items]
    try:
        configure("bad", 1, "*", device_content={"desired.x": 1})
    except Exception as error:  # noqa: BLE001  any failure is the result
        out["bad content"] = vars(error)["response"].json()["Message"].partition(";")[0]
    return out


def pushed(hub: Hub) -> dict[str, Any]:
    """Return an IoT Edge device and an automatic deployment: `edge_device` and `configuration` name them."""
    manager = IoTHubConfigurationManager.from_connection_string(hub.given["service"])
    device = hub.given["edge_device"]
    agent = hub.registry.get_module_twin(device, "$edgeAgent").properties.desired
    shown = manager.get_configuration(hub.given["configuration"])
    return {
        "modules": {name: module["settings"]["image"] for name, module in agent["modules"].items()},
        "identities": sorted(each.module_id for each in hub.registry.get_modules(device)),
        "content": shown.content.modules_content,
        "target_condition": shown.target_condition,
        "priority": shown.priority,
        "labels": shown.labels,
    }


def _desired(hub: Hub, device: str) -> Any:
    desired = hub.registry.get_twin(device).properties.desired
    return {name: desired[name] for name in ("poll", "level")}
