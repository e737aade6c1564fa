"""The Python client of the cloud: everything that an operator can do, as methods.

    from edgewright.sdk import CloudClient

    with CloudClient.connect() as cloud:
        version = cloud.publish(Path("digits.tar"), signing_key)
        rollout = cloud.create_rollout(RolloutRequest(model="digits", waves=("1", "25%", "100%")))
        for state in cloud.watch_rollout(rollout.rollout):
            print(state.wave, state.reason)

The bodies are the dataclasses of `edgewright.contracts.messages`; what goes wrong is an `EdgewrightError` with the line of
the server that refused. `client.py` has the methods, `pushing.py` moves packages, `connection.py` speaks HTTPS,
`context.py` finds out where the cloud is.
"""

from edgewright.contracts.client_context import ClientContext
from edgewright.sdk.client import CloudClient
from edgewright.sdk.context import find_context

__all__ = ["ClientContext", "CloudClient", "find_context"]
