"""Play edgeAgent on one machine: run the modules of a manifest in containers, and report as IoT Edge's agent does.

deployment.py    the desired properties of $edgeAgent, checked, with the status codes of a deployment
rules.py         pure decisions: states of modules, restarts, and the next steps in start order
engine.py        the containers of this runtime in a container engine; others are never touched
report.py        the reported properties of $edgeAgent
identities.py    the identities of the device's modules, from the hub
workload.py      the workload API, with which modules sign tokens without having their keys
certificates.py  the authority of this device, which issues certificates to modules
twin.py          the twin of $edgeAgent over MQTT
storage.py       the state directory: restarts, the last deployment, the instance
sources.py       where deployments come from: a manifest, or the twin with its identities and workload API
agent.py         the loop that connects all of these
"""
