"""A cluster of one node: a controller that brings the pods of Deployments up as processes of this machine.

It writes the states that the controllers and the kubelet of Kubernetes write: images that cannot be pulled, containers that end,
pods that no node can take, pods beyond a quota, and secrets that are missing. A Service of the type LoadBalancer listens on
127.0.0.1. A replaced template brings up the new pods before the old ones end, as a rolling update with maxUnavailable 0 does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import signal
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.kubernetes.api_server import ApiServer, api_server
from tests.support.kubernetes.store import KINDS, Kind, Object, RefusedError, Store

DEPLOYMENT = next(each for each in KINDS if each.kind == "Deployment")
POD = next(each for each in KINDS if each.kind == "Pod")
SERVICE = next(each for each in KINDS if each.kind == "Service")
SECRET = next(each for each in KINDS if each.kind == "Secret")
EVENT = next(each for each in KINDS if each.kind == "Event")
CONTROLLER = "kube-controller-manager"
KUBELET = "kubelet"
_TICK_S = 0.05


@dataclass
class _Container:
    """The process of a pod's container."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path


@dataclass
class ToyCluster:
    """The controller and the node."""

    server: ApiServer
    folder: Path
    images: dict[str, list[str]] = field(default_factory=dict)
    """Command of each image that can be pulled; `{port}` and `{keys}` stand for the port and the file of keys."""
    max_pods: int | None = None
    """Quota of pods in the namespace."""
    _containers: dict[str, _Container] = field(default_factory=dict)
    _balancers: dict[str, socketserver.ThreadingTCPServer] = field(default_factory=dict)
    _is_running: bool = True

    @property
    def store(self) -> Store:
        """The objects."""
        return self.server.store

    def run(self) -> None:
        """Bring the cluster to its desired state until it is stopped."""
        while self._is_running:
            with self.store.changed:
                deployments = self.store.list(DEPLOYMENT, "ml")
            with contextlib.suppress(RefusedError):  # an object that was deleted at this moment
                self._remove_orphans({each["metadata"]["name"] for each in deployments})
                for deployment in deployments:
                    self._reconcile(deployment)
                self._balance()
            with self.store.changed:
                self.store.changed.wait(_TICK_S)

    def stop(self) -> None:
        """End all processes."""
        self._is_running = False

    def close(self) -> None:
        """End what this cluster started."""
        for name in list(self._containers):
            self._end(name)
        for balancer in self._balancers.values():
            balancer.shutdown()
            balancer.server_close()

    def log(self, pod: str, previous: bool) -> str:
        """Return the output of a pod."""
        if pod not in self._containers:
            raise RefusedError(400, "BadRequest", f'container "service" in pod "{pod}" is waiting to start: ContainerCreating')
        return self._containers[pod].output.read_text("utf-8", "replace")

    def _remove_orphans(self, deployments: set[str]) -> None:
        for pod in self.store.list(POD, "ml"):
            if pod["metadata"]["annotations"]["tests/deployment"] not in deployments:
                self._remove_pod(pod)

    def _reconcile(self, deployment: Object) -> None:
        spec, name = deployment["spec"], deployment["metadata"]["name"]
        template = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        desired = spec.get("replicas", 1)
        mine = [each for each in self.store.list(POD, "ml") if each["metadata"]["annotations"]["tests/deployment"] == name]
        new = [each for each in mine if each["metadata"]["labels"]["pod-template-hash"] == template]
        old = [each for each in mine if each not in new]
        refusal = ""
        for number in range(desired):
            if not any(each["metadata"]["name"] == f"{name}-{template}-{number}" for each in new):
                if self.max_pods is not None and len(self.store.list(POD, "ml")) >= self.max_pods:
                    refusal = (
                        f'pods "{name}-{template}-{number}" is forbidden: exceeded quota: compute, requested: pods=1, '
                        f"used: pods={self.max_pods}, limited: pods={self.max_pods}"
                    )
                    break
                new.append(self._create_pod(deployment, template, number))
        new = [self._run_pod(each) for each in new]
        ready = [each for each in new if _is_ready(each)]
        if len(ready) >= desired:
            for pod in [*old, *new[desired:]]:
                self._remove_pod(pod)
            old, new = [], new[:desired]
        available = sum(map(_is_ready, [*new, *old]))
        is_done = len(ready) >= desired
        conditions = [
            _condition("Available", available >= desired, "MinimumReplicasAvailable", "Deployment has minimum availability."),
            _condition("Progressing", True, "NewReplicaSetAvailable" if is_done else "ReplicaSetUpdated", "progressing"),
            *([_condition("ReplicaFailure", True, "FailedCreate", refusal)] if refusal else []),
        ]
        self._set_status(
            DEPLOYMENT,
            name,
            {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": len(new) + len(old),
                "updatedReplicas": len(new),
                "readyReplicas": available,
                "availableReplicas": available,
                "unavailableReplicas": max(0, desired - available),
                "conditions": conditions,
            },
        )

    def _create_pod(self, deployment: Object, template: str, number: int) -> Object:
        source, name = deployment["spec"]["template"], deployment["metadata"]["name"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{template}-{number}",
                "labels": {**source["metadata"]["labels"], "pod-template-hash": template},
                "annotations": {"tests/deployment": name},
            },
            "spec": source["spec"],
            "status": {"phase": "Pending"},
        }
        return self.store.create(POD, "ml", body, manager=CONTROLLER)

    def _run_pod(self, pod: Object) -> Object:
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]
        if name in self._containers:
            return self._observe(pod)
        if int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0)):
            message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available."
            self._event(name, "FailedScheduling", message)
            return self._pending(pod, [_condition("PodScheduled", False, "Unschedulable", message)], None)
        secrets = [each["secret"]["secretName"] for each in pod["spec"].get("volumes", []) if "secret" in each]
        missing = [each for each in secrets if ("Secret", "ml", each) not in self.store.objects]
        if missing:
            self._event(name, "FailedMount", f'MountVolume.SetUp failed for volume "keys" : secret "{missing[0]}" not found')
            return self._waiting(pod, "ContainerCreating", "")
        if container["image"] not in self.images:
            cause = f"failed to resolve reference: {container['image']}: not found"
            return self._waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{container["image"]}": ErrImagePull: {cause}')
        self._start(pod, self.images[container["image"]], secrets)
        return self._observe(pod)

    def _start(self, pod: Object, command: list[str], secrets: list[str]) -> None:
        name = pod["metadata"]["name"]
        keys = self.folder / f"{name}-keys.json"
        for secret in secrets:
            content = self.store.find(SECRET, "ml", secret)["data"]["keys.json"]
            keys.write_bytes(base64.b64decode(content))
            keys.chmod(0o600)
        output, port = self.folder / f"{name}.log", _free_port()
        words = [each.format(port=port, keys=keys) for each in command]
        with output.open("wb") as stream:
            process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT, cwd=self.folder)
        self._containers[name] = _Container(process, port, output)

    def _observe(self, pod: Object) -> Object:
        running = self._containers[pod["metadata"]["name"]]
        code = running.process.poll()
        if code is not None:
            name = pod["metadata"]["name"]
            ended = {"exitCode": code & 0xFF, "reason": "Error"}
            message = f"back-off 10s restarting failed container=service pod={name}_ml({pod['metadata']['uid']})"
            return self._waiting(pod, "CrashLoopBackOff", message, last=ended)
        if _is_ready(pod):
            return pod
        path = pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"]
        is_ready = _answers(running.port, path)
        state = {"running": {"startedAt": "2030-01-01T00:00:00Z"}}
        return self._set_pod(pod, "Running", [_condition("Ready", is_ready, "", "")], state, is_ready=is_ready)

    def _waiting(self, pod: Object, reason: str, message: str, last: Object | None = None) -> Object:
        waiting = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        return self._pending(pod, [_condition("Ready", False, "ContainersNotReady", "")], waiting, last)

    def _pending(self, pod: Object, conditions: list[Object], state: Object | None, last: Object | None = None) -> Object:
        return self._set_pod(pod, "Running" if last else "Pending", conditions, state, last=last)

    def _set_pod(
        self,
        pod: Object,
        phase: str,
        conditions: list[Object],
        state: Object | None,
        *,
        is_ready: bool = False,
        last: Object | None = None,
    ) -> Object:
        status: Object = {"phase": phase, "conditions": conditions}
        if state is not None:
            container = pod["spec"]["containers"][0]
            entry = {"name": container["name"], "image": container["image"], "imageID": "", "ready": is_ready, "state": state}
            entry |= {"restartCount": 3 if last else 0, **({"lastState": {"terminated": last}} if last else {})}
            status["containerStatuses"] = [entry]
        return self._set_status(POD, pod["metadata"]["name"], status)

    def _set_status(self, kind: Kind, name: str, status: Object) -> Object:
        with self.store.changed:
            if self.store.find(kind, "ml", name).get("status") == status:
                return self.store.find(kind, "ml", name)
            return self.store.update(kind, "ml", name, lambda found: found.update(status=status), manager=CONTROLLER)

    def _event(self, pod: str, reason: str, message: str) -> None:
        name = f"{pod}.{hashlib.sha256(message.encode()).hexdigest()[:12]}"
        if ("Event", "ml", name) in self.store.objects:
            return
        involved = {"apiVersion": "v1", "kind": "Pod", "name": pod, "namespace": "ml"}
        body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": involved, "type": "Warning"}
        times = {"firstTimestamp": "2030-01-01T00:00:00Z", "lastTimestamp": "2030-01-01T00:00:00Z", "count": 1}
        self.store.create(EVENT, "ml", {**body, **times, "reason": reason, "message": message}, manager=KUBELET)

    def _remove_pod(self, pod: Object) -> None:
        self._end(pod["metadata"]["name"])
        self.store.delete(POD, "ml", pod["metadata"]["name"])

    def _end(self, name: str) -> None:
        running = self._containers.pop(name, None)
        if running is not None and running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
            try:
                running.process.wait(30)
            except subprocess.TimeoutExpired:
                running.process.kill()

    def _balance(self) -> None:
        """Listen for each Service of the type LoadBalancer, as the load balancer of a provider does."""
        services = {
            each["metadata"]["name"]: each
            for each in self.store.list(SERVICE, "ml")
            if each["spec"].get("type") == "LoadBalancer"
        }
        for name in self._balancers.keys() - services.keys():
            balancer = self._balancers.pop(name)
            balancer.shutdown()
            balancer.server_close()
        for name in services.keys() - self._balancers.keys():
            self._balancers[name] = self._listen(name, services[name]["spec"]["ports"][0]["port"])
            self._set_status(SERVICE, name, {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}})

    def _listen(self, service: str, port: int) -> socketserver.ThreadingTCPServer:
        cluster = self

        class Forward(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(("127.0.0.1", cluster.port_of(service)), 10) as pod:
                    back = threading.Thread(target=_copy, args=(pod, self.request), daemon=True)
                    back.start()
                    _copy(self.request, pod)
                    back.join(10)

        listening = socketserver.ThreadingTCPServer(("127.0.0.1", port), Forward)
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return listening

    def port_of(self, service: str) -> int:
        """Return the port of a ready pod that a Service selects."""
        selector = self.store.find(SERVICE, "ml", service)["spec"]["selector"].items()
        chosen = [e for e in self.store.list(POD, "ml") if selector <= e["metadata"]["labels"].items() and _is_ready(e)]
        return self._containers[chosen[0]["metadata"]["name"]].port


@contextlib.contextmanager
def toy_cluster(folder: Path, kinds: tuple[Kind, ...] = KINDS) -> Iterator[ToyCluster]:
    """Run a cluster with the namespace `ml` until the block ends."""
    store = Store(kinds)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml"}}
    store.objects["Namespace", "", "ml"] = namespace
    with api_server(store, folder) as server:
        cluster = ToyCluster(server, folder)
        server.logs = cluster.log
        thread = threading.Thread(target=cluster.run, daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            cluster.stop()
            thread.join(60)
            cluster.close()


def _condition(type_: str, holds: bool, reason: str, message: str) -> Object:
    return {"type": type_, "status": str(holds), "reason": reason, "message": message}


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _copy(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
