"""Verbs of Azure ML's SDK v1 that do something else here; `edgewright azureml check` shows these lines.

Each key is the end of the old name: `Class.verb` or `function`. Other verbs do what their documentation says.
"""

from __future__ import annotations

DIFFERENCES: dict[str, str] = {
    "Workspace.from_config": "a config.json of Azure opens the configured or embedded cloud",
    "Workspace.create": "starts the embedded cloud, unless one is configured; subscription, group and region have no effect",
    "Workspace.get": "as create",
    "Run.get_context": "outside of a job, the run is kept in .edgewright/runs",
    "Run.register_model": "also outside of a job",
    "Model.register": "data sets are accepted and not stored; names are lower-case; a folder keeps its name unless its framework "
    "is served without code",
    "Model.deploy": "default target: processes on the cloud's machine; clients must send a key",
    "Model.package": "the cloud builds the image; with generate_dockerfile=True, save() writes a Dockerfile with all layers",
    "Model.get_model_path": "several entries are put into a folder with the model's name; a served script starts no cloud",
    "Environment.build": "the cloud builds the image",
    "Environment.build_local": "as build",
    "LocalWebservice.deploy_configuration": "processes, no container; clients must send a key",
    "AciWebservice.deploy_configuration": "a container on the cloud's machine; clients must send a key unless "
    "auth_enabled=False; no TLS, region or virtual network",
    "InferenceConfig": "extra_docker_file_steps: use Environment.from_dockerfile",
    "tensorflow_graph_to_onnx_model": "an operator set that is too old is replaced by the oldest that works",
    "PredictionClient": "ca_file= names the authority of the service",
    "client_from_service": "the service must answer gRPC",
    "TelemetryClient": "kept in the run's folder, or of a service by the cloud (endpoints telemetry); nothing is sent",
    "Webservice.update": "enable_app_insights sets AML_APP_INSIGHTS_ENABLED for the script",
}
