"""Changes: a counter that clients follow by long-polling."""

from __future__ import annotations

from cloud.auth import Access
from cloud.db.database import Counter
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.messages import ChangeNumber


async def follow_changes(call: Call) -> ChangeNumber:
    """Return the counter as soon as it differs from `after`, or after `wait_s` seconds."""
    after, wait_s = call.whole("after", 0), call.wait_s()
    return ChangeNumber(number=await call.cloud.changes.wait(Counter.CHANGES, after, wait_s))


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/changes",
        access=Access.OPERATOR,
        summary="A counter that increases with every change; waits while it equals `after`.",
        handler=follow_changes,
        response_type=ChangeNumber,
        numbers=("after", "wait_s"),
        query={"after": "the last counter value seen", "wait_s": "maximum time to wait for another value, at most 60 s"},
    ),
)
