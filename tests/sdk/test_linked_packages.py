"""A package and the registered source that it was made from share one version, and references name it everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert.conversion import _digest_of as digest_in_conversion
from edgewright.cli import main
from edgewright.contracts import signing, wire
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.registration import Registration, files_below, source_digests, source_documents
from edgewright.contracts.names import PackageReference, parse_reference
from edgewright.contracts.oci import INDEX_TYPE
from edgewright.contracts.package import SOURCE_VERSION, index_with_source, source_entry
from edgewright.errors import BadInputError
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud
from tests.support.small_packages import make_package
from tests.support.tiny_variants import make_variant

WEIGHTS = b"weights of a model"


def published(client: CloudClient, publisher: Path, folder: Path, name: str, source: bytes = WEIGHTS) -> ModelVersion:
    """Publish a package that was made from a source of these bytes."""
    return client.publish(make_package(folder, name, source).layout.path, signing.load_private_key(publisher))


def registered(client: CloudClient, folder: Path, name: str, source: bytes = WEIGHTS) -> ModelVersion:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(source)
    (folder / "notes.md").write_text("notes")
    return client.register_model(name, folder, Registration(description="of the source"))


def test_a_package_takes_over_the_files_of_its_source(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    source = registered(client, tmp_path / "model", "linked")
    registered(client, tmp_path / "other", "linked", b"other weights")
    version = published(client, publisher, tmp_path / "package", "linked")
    assert (version.version, version.variants, version.source_version) == (3, ("fp32",), 1)
    assert (version.files, version.registration) == (source.files, source.registration)
    client.download_model(version, tmp_path / "back")
    assert (tmp_path / "back" / "model.bin").read_bytes() == WEIGHTS
    package = client.pull_package(version, tmp_path / "pulled")
    assert [variant.config.variant for variant in package.variants] == ["fp32"]
    entry = source_entry(package.index)
    assert entry is not None
    assert entry.annotations == {SOURCE_VERSION: "1"}


def test_the_newest_registration_of_a_source_is_named(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    registered(client, tmp_path / "model", "twice")
    registered(client, tmp_path / "model", "twice")
    assert published(client, publisher, tmp_path / "package", "twice").source_version == 2


def test_a_package_of_another_source_is_not_linked(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    registered(client, tmp_path / "model", "unlinked", b"other weights")
    version = published(client, publisher, tmp_path / "package", "unlinked")
    assert (version.source_version, version.files, version.registration) == (None, (), None)


def test_the_files_stay_when_the_source_version_is_deleted(client: CloudClient, publisher: Path, tmp_path: Path) -> None:
    source = registered(client, tmp_path / "model", "kept-source")
    version = published(client, publisher, tmp_path / "package", "kept-source")
    client.delete_version(source)
    assert (client.download_model(version, tmp_path / "back") / "notes.md").read_text() == "notes"


@pytest.mark.parametrize("number", ["7", "x", ""])
def test_an_index_that_names_another_version_is_refused(
    number: str, client: CloudClient, cloud: RunningCloud, publisher: Path, tmp_path: Path
) -> None:
    name = f"forged{number}"
    documents = source_documents(files_below(Path(__file__)))
    client.register_model(name, Path(__file__))
    small = make_package(tmp_path, name)
    client.publish(small.layout.path, signing.load_private_key(publisher))
    raw = index_with_source(small.package, documents.manifest_descriptor, 1)
    raw = raw.replace(b'version":"1"', f'version":"{number}"'.encode())
    digest, headers = wire.digest_of(raw), {"Content-Type": INDEX_TYPE}
    assert cloud.operator().send("PUT", f"/v2/{name}/manifests/{digest}", raw, headers).status == 201
    body = small.signed(signing.load_private_key(publisher), 3, index_digest=digest)
    forged = {**body, "index": {**body["index"], "digest": digest, "size": len(raw)}}
    answer = cloud.operator().post(f"/v1/models/{name}/versions", forged)
    expected = f"{name} must have the version {number!r} with the source files that the package names"
    assert (answer.status, answer.error) == (409, expected)


@pytest.mark.parametrize("layout", [["a.bin"], ["a.bin", "b/c.bin", "b/d/e.bin"], ["b.txt", "b/a", "b-1"]])
def test_the_digests_of_a_source_are_those_of_the_conversion(layout: list[str], tmp_path: Path) -> None:
    for name in layout:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    paths = [tmp_path, *(each for each in tmp_path.rglob("*"))]
    assert source_digests(source_documents(files_below(tmp_path)).files) == {digest_in_conversion(path) for path in paths}


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("models:digits", PackageReference("digits", None)),
        ("models:digits:3", PackageReference("digits", 3)),
        ("models:digits@best", PackageReference("digits", None, "best")),
        ("models:/digits/3", PackageReference("digits", 3)),
        ("models:/digits@best", PackageReference("digits", None, "best")),
        ("digits@best", PackageReference("digits", None, "best")),
    ],
)
def test_a_reference_has_two_forms(text: str, reference: PackageReference) -> None:
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text", ["models:", "models:/", "models:digits:", "models:digits:0", "models:/digits/3/4", "models://digits"]
)
def test_a_bad_reference_is_one_line(text: str) -> None:
    with pytest.raises(BadInputError, match="must be"):
        parse_reference(text)


def command(cloud: RunningCloud, *words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words], env={"EDGEWRIGHT_CLOUD": str(cloud.state)})


def test_convert_takes_a_registered_model(client: CloudClient, cloud: RunningCloud, tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "fp32")
    version = client.register_model("converted", variant.path)
    client.set_alias(version, "best")
    result = command(cloud, "convert", "models:converted@best", "-o", tmp_path / "build")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "build" / "graph" / "graph.onnx").is_file()
    result = command(cloud, "convert", "models:converted:9", "-o", tmp_path / "none")
    assert (result.exit_code, result.output) == (2, "edgewright: model converted has no version 9; known: 1\n")
