"""Container tools: skopeo and oras push to and pull from a running cloud (protocol.md P20)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import oras.client
import pytest

from edgewright.contracts import wire
from tests.support.running_cloud import Http, RunningCloud
from tests.support.small_packages import SmallPackage, make_package, push

Skopeo = Callable[..., str]


@pytest.fixture
def skopeo(require: Callable[[str], Path], cloud: RunningCloud, tmp_path: Path) -> Skopeo:
    """Run skopeo as the operator; `REGISTRY` in an argument stands for the cloud."""
    program, certificates, login = require("skopeo"), tmp_path / "certs", tmp_path / "auth.json"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(cloud.ca.read_bytes())
    registry = cloud.url.removeprefix("https://")

    def run(*arguments: str, text: str = "") -> str:
        command = [str(program), *(each.replace("REGISTRY", registry) for each in arguments), "--authfile", str(login)]
        finished = subprocess.run(command, capture_output=True, text=True, input=text, timeout=60)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    run("login", "--username", "operator", "--password-stdin", "--cert-dir", str(certificates), "REGISTRY", text=cloud.token)
    return run


@pytest.fixture
def package(tmp_path: Path) -> SmallPackage:
    return make_package(tmp_path / "package", "tooled", graph=bytes(100_000))


@pytest.fixture
def certificates(tmp_path: Path) -> str:
    return str(tmp_path / "certs")


def blobs(layout: Path) -> set[str]:
    return {path.name for path in (layout / "blobs" / "sha256").iterdir()}


def test_skopeo_pushes_every_manifest_and_layer_of_a_package(
    skopeo: Skopeo, operator: Http, package: SmallPackage, certificates: str
) -> None:
    # skopeo 1.9 rewrites the index without unknown fields; the manifests and layers stay unchanged.
    skopeo("copy", "--all", "--dest-cert-dir", certificates, f"oci:{package.layout.path}:tooled", "docker://REGISTRY/sent:latest")
    manifests = operator.get("/v2/sent/manifests/latest").json()["manifests"]
    assert [each["digest"] for each in manifests] == [variant.descriptor.digest for variant in package.package.variants]
    statuses = {operator.send("HEAD", f"/v2/sent/blobs/{blob.digest}").status for blob in package.package.blobs()}
    assert statuses == {200}


def test_skopeo_pulls_every_manifest_and_layer_of_a_package(
    skopeo: Skopeo, operator: Http, package: SmallPackage, certificates: str, tmp_path: Path
) -> None:
    push(operator, package, "tooled")
    index = f"docker://REGISTRY/tooled@{package.package.digest}"
    skopeo("copy", "--all", "--src-cert-dir", certificates, index, f"oci:{tmp_path / 'copy'}:tooled")
    assert {blob.digest.removeprefix("sha256:") for blob in package.package.blobs()} <= blobs(tmp_path / "copy")


def test_skopeo_inspects_the_unchanged_bytes_of_the_index(
    skopeo: Skopeo, operator: Http, package: SmallPackage, certificates: str
) -> None:
    push(operator, package, "shown")
    raw = skopeo("inspect", "--raw", "--cert-dir", certificates, f"docker://REGISTRY/shown@{package.package.digest}")
    assert wire.digest_of(raw.encode()) == package.package.digest


def test_skopeo_inspects_the_config_of_a_platforms_variant(
    skopeo: Skopeo, operator: Http, package: SmallPackage, certificates: str
) -> None:
    push(operator, package, "shown")
    index = f"docker://REGISTRY/shown@{package.package.digest}"
    raw = skopeo("--override-arch", "amd64", "inspect", "--config", "--raw", "--cert-dir", certificates, index)
    assert json.loads(raw)["variant"] == "fp32"


def test_skopeo_lists_tags(skopeo: Skopeo, operator: Http, package: SmallPackage, certificates: str) -> None:
    push(operator, package, "listed")
    variant = package.package.variants[0].descriptor
    headers = {"Content-Type": variant.mediaType}
    operator.send("PUT", "/v2/listed/manifests/latest", package.layout.read_blob(variant), headers)
    assert json.loads(skopeo("list-tags", "--cert-dir", certificates, "docker://REGISTRY/listed"))["Tags"] == ["latest"]


@pytest.fixture
def client(cloud: RunningCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[oras.client.OrasClient]:
    """An oras client, logged in as the operator."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cloud.ca))
    monkeypatch.chdir(tmp_path)
    logged_in = oras.client.OrasClient(auth_backend="basic")
    host = cloud.url.removeprefix("https://")
    logged_in.login(hostname=host, username="operator", password=cloud.token, config_path=str(tmp_path / "oras.json"))
    yield logged_in
    logged_in.session.close()


def test_oras_pushes_a_file_and_pulls_it_back(cloud: RunningCloud, client: oras.client.OrasClient, tmp_path: Path) -> None:
    target = f"{cloud.url.removeprefix('https://')}/letters:first"
    (tmp_path / "letter.txt").write_bytes(b"dear registry")
    assert client.push(target=target, files=["letter.txt"]).status_code == 201
    [pulled] = client.pull(target=target, outdir=str(tmp_path / "pulled"))
    assert Path(pulled).read_bytes() == b"dear registry"
