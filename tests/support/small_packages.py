"""Small packages built with the product's own code, with a few bytes in place of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from edgewright.contracts import signing, wire
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, write_record
from edgewright.contracts.oci import Descriptor, OciLayout, Platform
from edgewright.contracts.package import Package, write_package
from edgewright.contracts.variant import Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory
from tests.support.running_cloud import Http

TOLERANCE = Tolerance(max_relative_difference=0.01, min_agreement=0.99)


@dataclass(frozen=True)
class SmallPackage:
    layout: OciLayout
    package: Package

    def signed(self, key: signing.PrivateKey, number: int, **changes: Any) -> dict[str, Any]:
        """Return the request body that publishes the package as version `number`."""
        claims = {"index_digest": self.package.digest, "model": self.package.name, "version": number}
        expires_at = datetime.now(UTC) + timedelta(days=1)
        signature = signing.PackageSignature(**{**claims, "expires_at": expires_at, **changes})
        envelope = wire.decode(signing.sign_package(signature, key), dict[str, Any], what="envelope")
        return {"version": number, "index": wire.to_plain(self.package.descriptor), "envelope": envelope}


def make_package(folder: Path, name: str, graph: bytes = b"graph") -> SmallPackage:
    inputs, outputs = (
        (TensorSpec(name="x", dtype="float32", shape=("N", 4)),),
        (TensorSpec(name="y", dtype="float32", shape=("N", 2)),),
    )
    digest = wire.digest_of(graph)
    with BuildDirectory.creating(folder / "build") as staging:
        record = BuildRecord(source_kind="test", source_digest=digest, inputs=inputs, outputs=outputs, tolerance=TOLERANCE)
        write_record(staging, record)
    build = BuildDirectory.open(folder / "build")
    config = VariantConfig(
        variant="fp32",
        backend="onnxruntime",
        precision=Precision.FP32,
        inputs=inputs,
        outputs=outputs,
        tolerance=TOLERANCE,
        size_bytes=len(graph),
    )
    with build.creating_variant("fp32") as variant:
        (variant / "graph.onnx").write_bytes(graph)
        VariantDirectory.write(variant, config)
    layout = OciLayout.create(folder / "layout")
    platforms = {"fp32": (Platform(os="linux", architecture="amd64"),)}
    package = write_package(build, layout, name=name, profiles={"fp32": ("generic-x86-64",)}, platforms=platforms)
    return SmallPackage(layout, package)


def push(http: Http, small: SmallPackage, repository: str) -> None:
    """Push every blob, manifest and the index by digest."""
    package = small.package
    for variant in package.variants:
        for blob in (variant.manifest.config, *variant.manifest.layers):
            push_blob(http, repository, small.layout.read_blob(blob))
        push_manifest(http, repository, variant.descriptor, small.layout)
    push_manifest(http, repository, package.descriptor, small.layout)


def push_blob(http: Http, repository: str, raw: bytes) -> str:
    digest = wire.digest_of(raw)
    answer = http.send("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", raw)
    assert answer.status == 201, answer.body
    return digest


def push_manifest(http: Http, repository: str, descriptor: Descriptor, layout: OciLayout) -> None:
    headers = {"Content-Type": descriptor.mediaType}
    answer = http.send("PUT", f"/v2/{repository}/manifests/{descriptor.digest}", layout.read_blob(descriptor), headers)
    assert answer.status == 201, answer.body
