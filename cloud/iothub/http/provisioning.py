"""The routes of the provisioning service: individual enrolments, groups and registrations.

Source: REST API of the Device Provisioning Service, version 2021-10-01.
"""

from __future__ import annotations

from functools import partial

from starlette.routing import Route

from cloud.iothub.http.requests import Access, Answer, Call, Right, answering
from cloud.iothub.provisioning.enrolments import GROUP, INDIVIDUAL, Enrolments, to_rest


def routes(access: Access, enrolments: Enrolments) -> list[Route]:
    """Return the routes with their rights."""
    read, write = Right.REGISTRY_READ, Right.REGISTRY_WRITE
    found = []
    for kind, path in ((INDIVIDUAL, "/enrollments"), (GROUP, "/enrollmentGroups")):
        table = [
            ("POST", f"{path}/query", read, _list),
            ("GET", f"{path}/{{name}}", read, _get),
            ("PUT", f"{path}/{{name}}", write, _put),
            ("DELETE", f"{path}/{{name}}", write, _delete),
            ("POST", f"{path}/{{name}}/attestationmechanism", write, _attestation),
        ]
        for method, route, right, handler in table:
            found.append(Route(route, answering(access, right, partial(handler, enrolments, kind)), methods=[method]))
    found.append(Route("/registrations/{name}", answering(access, read, partial(_record, enrolments)), methods=["GET"]))
    found.append(Route("/scope", answering(access, read, partial(_scope, enrolments)), methods=["GET"]))
    return found


async def _list(enrolments: Enrolments, kind: str, _call: Call) -> Answer:
    return Answer([to_rest(each, with_keys=False) for each in enrolments.list(kind)])


async def _get(enrolments: Enrolments, kind: str, call: Call) -> Answer:
    return Answer(to_rest(enrolments.get(kind, _name(call)), with_keys=False))


async def _put(enrolments: Enrolments, kind: str, call: Call) -> Answer:
    return Answer(to_rest(enrolments.put(kind, _name(call), call.json(), call.etag()), with_keys=True))


async def _delete(enrolments: Enrolments, kind: str, call: Call) -> Answer:
    enrolments.delete(kind, _name(call))
    return Answer(status=204)


async def _attestation(enrolments: Enrolments, kind: str, call: Call) -> Answer:
    return Answer(to_rest(enrolments.get(kind, _name(call)), with_keys=True)["attestation"])


async def _record(enrolments: Enrolments, call: Call) -> Answer:
    return Answer(enrolments.record(_name(call)))


async def _scope(enrolments: Enrolments, _call: Call) -> Answer:
    return Answer({"idScope": enrolments.scope})


def _name(call: Call) -> str:
    name: str = call.request.path_params["name"]
    return name
