"""The routes of queries, configurations and manifests. Source: REST API of IoT Hub, version 2021-04-12."""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from cloud.iothub.deployments.configurations import Configurations
from cloud.iothub.deployments.query import parse_condition, parse_query
from cloud.iothub.http.requests import Access, Answer, Call, Right, answering
from cloud.iothub.refusal import RefusalError, bad_argument

MAX_ITEMS = 100
"""Rows in one answer of a query; the header x-ms-continuation names the next ones."""


def routes(access: Access, configurations: Configurations) -> list[Route]:
    """Return the routes with their rights."""
    read, write, service = Right.REGISTRY_READ, Right.REGISTRY_WRITE, Right.SERVICE
    table = [
        ("POST", "/devices/query", read, _query),
        ("GET", "/configurations", read, _list),
        ("POST", "/configurations/testQueries", read, _test),
        ("GET", "/configurations/{name}", read, _get),
        ("PUT", "/configurations/{name}", write, _put),
        ("DELETE", "/configurations/{name}", write, _delete),
        ("POST", "/devices/{device}/applyConfigurationContent", service, _apply),
    ]
    return [
        Route(path, answering(access, right, partial(handler, configurations)), methods=[method])
        for method, path, right, handler in table
    ]


async def _query(configurations: Configurations, call: Call) -> Answer:
    text = call.json().get("query")
    if not isinstance(text, str):
        raise bad_argument("the body must have the text of a query")
    headers = call.request.headers
    size, start = headers.get("x-ms-max-item-count", str(MAX_ITEMS)), headers.get("x-ms-continuation") or "0"
    if not size.isdigit() or not start.isdigit() or int(size) < 1:
        raise bad_argument("x-ms-max-item-count must be a number, and x-ms-continuation that of an earlier answer")
    found = configurations.query(text)
    end = int(start) + min(int(size), MAX_ITEMS)
    following = {"x-ms-continuation": str(end)} if end < len(found) else {}
    kind = "twin" if "*" in text.partition("FROM")[0] else "raw"
    return Answer(found[int(start) : end], headers={"x-ms-item-type": kind, **following})


async def _list(configurations: Configurations, call: Call) -> Answer:
    return Answer(configurations.all()[: call.number("top", 100, 100)])


async def _get(configurations: Configurations, call: Call) -> Answer:
    shown = configurations.show(_name(call))
    return Answer(shown, headers={"ETag": f'"{shown["etag"]}"'})


async def _put(configurations: Configurations, call: Call) -> Answer:
    shown = configurations.put(_name(call), call.json(), call.etag())
    return Answer(shown, headers={"ETag": f'"{shown["etag"]}"'})


async def _delete(configurations: Configurations, call: Call) -> Answer:
    configurations.delete(_name(call), call.etag())
    return Answer(status=204)


async def _test(_configurations: Configurations, call: Call) -> Answer:
    request = call.json()
    errors = {}
    for metric, text in (request.get("customMetricQueries") or {}).items():
        try:
            parse_query(str(text))
        except RefusalError as error:
            errors[metric] = str(error)
    try:
        parse_condition(str(request.get("targetCondition") or "*"))
    except RefusalError as error:
        return Answer({"targetConditionError": str(error), "customMetricQueryErrors": errors})
    return Answer({"targetConditionError": None, "customMetricQueryErrors": errors})


async def _apply(configurations: Configurations, call: Call) -> Answer:
    configurations.apply_manifest(call.name(), call.json())
    return Answer(status=204)


def _name(call: Call) -> str:
    name: str = call.request.path_params["name"]
    return name
