"""The Python client of the cloud: every operation of an operator is a method.

    from edgewright.sdk import CloudClient

    with CloudClient.connect() as cloud:
        version = cloud.publish(Path("digits.tar"), signing_key)
        rollout = cloud.create_rollout(RolloutRequest(model="digits", waves=("1", "25%", "100%")))
        for state in cloud.watch_rollout(rollout.rollout):
            print(state.wave, state.reason)

The bodies are the dataclasses of `edgewright.contracts.messages`; a rejected request raises an `EdgewrightError` with the
server's message. `client.py` has the methods, `pushing.py` uploads packages, `connection.py` sends HTTPS requests, `context.py`
finds the address of the cloud. `workspace/` and `services/` have the objects and verbs that users of Azure ML's SDK v1 know:
`Workspace`, `Model`, `Run`, `Environment`, `Webservice` and what belongs to them.
"""

from edgewright.contracts.connection.client_context import ClientContext
from edgewright.sdk.client import CloudClient
from edgewright.sdk.context import find_context
from edgewright.sdk.services.conda import CondaDependencies
from edgewright.sdk.services.environment import Environment
from edgewright.sdk.services.inference import InferenceConfig
from edgewright.sdk.services.kinds import AciWebservice, LocalWebservice
from edgewright.sdk.services.model_package import ContainerRegistry, ModelPackage
from edgewright.sdk.services.model_profile import ModelProfile
from edgewright.sdk.services.packages import Image
from edgewright.sdk.services.webservice import Webservice
from edgewright.sdk.workspace.datastore import Datastore
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.resources import ResourceConfiguration
from edgewright.sdk.workspace.runs import Experiment, Run
from edgewright.sdk.workspace.telemetry import TelemetryClient
from edgewright.sdk.workspace.workspace import Workspace

__all__ = [
    "AciWebservice",
    "ClientContext",
    "CloudClient",
    "CondaDependencies",
    "ContainerRegistry",
    "Datastore",
    "Environment",
    "Experiment",
    "Image",
    "InferenceConfig",
    "LocalWebservice",
    "Model",
    "ModelPackage",
    "ModelProfile",
    "ResourceConfiguration",
    "Run",
    "TelemetryClient",
    "Webservice",
    "Workspace",
    "find_context",
]
