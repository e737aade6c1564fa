"""Registered models with a real cloud: versions, files, tags, properties, aliases and deletion (protocol.md P23 to P25)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oras.client
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from edgewright.contracts import signing
from edgewright.contracts.messages import ModelVersion, RolloutRequest
from edgewright.contracts.models.registration import Framework, Registration
from edgewright.contracts.names import PackageReference, parse_reference
from edgewright.contracts.oci import INDEX_TYPE
from edgewright.errors import BadInputError, ConflictError, NotFoundError
from edgewright.sdk import CloudClient
from edgewright.sdk.trying import SampleOptions
from tests.support.running_cloud import RunningCloud
from tests.support.small_packages import make_package

REGISTRATION = Registration(
    framework=Framework.SKLEARN,
    framework_version="1.4.2",
    description="digits, for people",
    cpu=1.0,
    memory_gb=0.5,
    run="run-7",
    tags={"stage": "test"},
    properties={"data": "2026-11"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that is a folder with two files, one below another folder."""
    path = tmp_path / "model"
    (path / "variables").mkdir(parents=True)
    (path / "saved.pb").write_bytes(b"graph" * 1000)
    (path / "variables" / "weights.bin").write_bytes(b"weights" * 1_000_000)
    return path


def contents(folder: Path) -> dict[str, str]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def test_p23_a_folder_becomes_a_version_and_comes_back_unchanged(client: CloudClient, folder: Path, tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    version = client.register_model("kept", folder, REGISTRATION, on_progress=lambda *each: sent.append(each))
    assert (version.version, version.registration, version.variants, version.key_id) == (1, REGISTRATION, (), "")
    assert version.size_bytes == 5000 + 7_000_000 == sent[-1][0] == sent[-1][1]
    client.download_model(version, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert client.model_versions("kept") == (version,)


def test_p23_only_files_that_the_cloud_lacks_are_sent(client: CloudClient, folder: Path) -> None:
    client.register_model("frugal-files", folder)
    (folder / "saved.pb").write_bytes(b"another graph")
    sent: list[tuple[int, int]] = []
    version = client.register_model("frugal-files", folder, on_progress=lambda *each: sent.append(each))
    assert (version.version, sent[-1]) == (2, (13, 13))


def test_p23_one_file_is_a_model_too(client: CloudClient, folder: Path, tmp_path: Path) -> None:
    version = client.register_model("single-file", folder / "saved.pb")
    assert [file.path for file in version.files] == ["saved.pb"]
    assert (client.download_model(version, tmp_path / "one") / "saved.pb").read_bytes() == b"graph" * 1000


def test_p23_an_oci_client_pulls_the_files(
    client: CloudClient, cloud: RunningCloud, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cloud.ca))
    client.register_model("pulled", folder / "saved.pb")
    host = cloud.url.removeprefix("https://")
    with requests_of(host, cloud.token, tmp_path) as other:
        index = other.get_manifest(f"{host}/pulled:1", allowed_media_type=[INDEX_TYPE])
        [entry] = index["manifests"]
        [pulled] = other.pull(target=f"{host}/pulled@{entry['digest']}", outdir=str(tmp_path / "pulled"))
    assert (Path(pulled).name, Path(pulled).read_bytes()) == ("saved.pb", b"graph" * 1000)


@contextlib.contextmanager
def requests_of(host: str, token: str, folder: Path) -> Iterator[oras.client.OrasClient]:
    """Yield an oras client that is logged in as the operator."""
    client = oras.client.OrasClient(auth_backend="basic")
    client.login(hostname=host, username="operator", password=token, config_path=str(folder / "oras.json"))
    yield client
    client.session.close()


def test_p23_several_files_are_a_model_too(client: CloudClient, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("notes")
    version = client.register_model("several", [folder / "saved.pb", folder / "variables", tmp_path / "notes.md"])
    assert [file.path for file in version.files] == ["saved.pb", "variables/weights.bin", "notes.md"]
    with pytest.raises(BadInputError, match="must have different names, but notes.md is given twice"):
        client.register_model("several", [tmp_path / "notes.md", folder / ".." / "notes.md"])


@pytest.fixture
def line_model(tmp_path: Path) -> Path:
    """A linear model of three features and one target: the sum of them."""
    path = tmp_path / "line.skops"
    skops.io.dump(LinearRegression(fit_intercept=False).fit(np.eye(3), np.ones(3)), path)
    (tmp_path / "rows.csv").write_text("1,2,3\n4,5,6\n")
    return path


def test_p23_a_sample_gives_the_schema_and_is_stored(client: CloudClient, line_model: Path, tmp_path: Path) -> None:
    sample = SampleOptions(tmp_path / "rows.csv")
    version = client.register_model("sampled", [line_model, tmp_path / "rows.csv"], REGISTRATION, sample=sample)
    assert version.registration is not None
    assert version.registration.framework is Framework.SKLEARN
    assert [str(spec) for spec in version.registration.inputs] == ["input int64[N, 3]"]
    assert [str(spec) for spec in version.registration.outputs] == ["output float64[N]"]
    assert [file.path for file in version.files] == ["line.skops", "rows.csv"]
    stored = client.golden_sample(version)
    assert stored is not None
    inputs, outputs = stored
    assert inputs["input"].tolist() == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_allclose(outputs["output"], [6, 15])
    assert client.golden_sample(client.register_model("sampled", line_model)) is None


def test_p23_a_model_that_fails_on_its_sample_is_not_registered(client: CloudClient, line_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n")
    sample = SampleOptions(tmp_path / "rows.csv")
    with pytest.raises(BadInputError, match="line.skops must score its sample input, but it failed: X has 2 features"):
        client.register_model("refused", line_model, sample=sample)
    with pytest.raises(BadInputError, match="the framework of .*line.skops must be sklearn, not onnx"):
        (tmp_path / "rows.csv").write_text("1,2,3\n")
        client.register_model("refused", line_model, Registration(framework=Framework.ONNX), sample=sample)
    with pytest.raises(NotFoundError):
        client.model_versions("refused")


def test_p24_tags_are_replaced_and_properties_only_added(client: CloudClient, folder: Path) -> None:
    version = client.register_model("labelled", folder, REGISTRATION)
    tagged = client.set_tags(version, {"stage": "live", "team": "a"})
    assert tagged.registration is not None
    assert tagged.registration.tags == {"stage": "live", "team": "a"}
    assert tagged.registration.properties == {"data": "2026-11"}
    added = client.add_properties(version, {"data": "2026-11", "seed": "7"})
    assert added.registration is not None
    assert added.registration.properties == {"data": "2026-11", "seed": "7"}
    with pytest.raises(ConflictError, match="property seed of labelled:1 is '7' and never changes"):
        client.add_properties(version, {"seed": "8"})
    assert client.model_version(parse_reference("labelled")) == added
    assert client.models(tag="team=a") == (added,)
    assert client.models(tag="team=b") == ()


def test_p24_a_list_is_filtered_and_comes_in_pages(client: CloudClient, folder: Path) -> None:
    facts = Registration(framework=Framework.XGBOOST, tags={"listed": "yes"})
    for name in ("listed-b", "listed-a", "listed-a"):
        client.register_model(name, folder / "saved.pb", facts)
    client.register_model("listed-a", folder / "saved.pb", Registration(tags={"listed": "yes"}))
    everything = [(each.model, each.version) for each in client.models(tag="listed=yes", framework="xgboost")]
    assert everything == [("listed-a", 1), ("listed-a", 2), ("listed-b", 1)]
    assert {each.model for each in client.models(framework="xgboost")} >= {"listed-a", "listed-b"}
    first = client.models(tag="listed=yes", limit=2)
    rest = client.models(tag="listed=yes", after=PackageReference(first[-1].model, first[-1].version))
    assert [(each.model, each.version) for each in (*first, *rest)] == sorted([*everything, ("listed-a", 3)])
    names = [each.model for each in client.models()]
    assert [each.model for each in client.models(after=PackageReference(names[0], 99), limit=1)] == names[1:2]
    with pytest.raises(BadInputError, match="limit must be a number from 1 to 10000, not 0"):
        client.models(limit=0)


def test_p24_an_alias_moves_between_versions(client: CloudClient, folder: Path) -> None:
    first, second = client.register_model("aliased", folder), client.register_model("aliased", folder)
    client.set_alias(first, "champion")
    assert client.model_version(parse_reference("aliased@champion")).version == 1
    moved = client.set_alias(second, "champion")
    client.set_alias(second, "also")
    assert moved.aliases == ("champion",)
    assert [each.aliases for each in client.model_versions("aliased")] == [(), ("also", "champion")]
    client.remove_alias("aliased", "champion")
    with pytest.raises(NotFoundError, match="model aliased has no alias champion; known: also"):
        client.model_version(parse_reference("aliased@champion"))
    with pytest.raises(NotFoundError, match="has no alias 'champion'"):
        client.remove_alias("aliased", "champion")
    with pytest.raises(BadInputError, match="an alias must not be a number"):
        client.set_alias(first, "3")


def test_p25_a_deleted_version_is_gone_and_its_number_stays_taken(client: CloudClient, folder: Path) -> None:
    first, second = client.register_model("deleted", folder), client.register_model("deleted", folder)
    client.set_alias(second, "champion")
    client.delete_version(second)
    assert client.model_versions("deleted") == (first,)
    with pytest.raises(NotFoundError, match="version 2 of deleted was deleted; its newest is 1"):
        client.delete_version(second)
    third = client.register_model("deleted", folder)
    assert (third.version, third.aliases) == (3, ())
    client.delete_version(first)
    client.delete_version(third)
    with pytest.raises(NotFoundError, match="no model is called 'deleted'"):
        client.model_versions("deleted")
    assert client.register_model("deleted", folder).version == 4


def test_p25_unreferenced_files_are_removed_on_request(client: CloudClient, cloud: RunningCloud, folder: Path) -> None:
    (folder / "saved.pb").write_bytes(b"only in the deleted version")
    client.delete_version(client.register_model("collected", folder / "saved.pb"))
    blob = cloud.state / "registry" / "blobs" / "sha256" / hashlib.sha256(b"only in the deleted version").hexdigest()
    client.collect_unreferenced()
    assert blob.is_file()
    assert client.collect_unreferenced(grace_s=0).blobs >= 3
    assert not blob.exists()
    with pytest.raises(BadInputError, match="grace_s must be a number of seconds from 0"):
        client.collect_unreferenced(grace_s=-1)


def test_p23_versions_that_are_registered_at_once_get_different_numbers(cloud: RunningCloud, folder: Path) -> None:
    def register(_: int) -> int:
        with CloudClient.connect(str(cloud.state)) as client:
            return client.register_model("at-once", folder / "saved.pb").version

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(register, range(16)))
    assert sorted(numbers) == list(range(1, 17))


def test_p25_packages_and_source_files_share_the_numbers(
    client: CloudClient, publisher: Path, folder: Path, tmp_path: Path
) -> None:
    key = signing.load_private_key(publisher)
    client.register_model("shared", folder)
    published = client.publish(make_package(tmp_path, "shared").layout.path, key)
    assert published.version == 2
    client.delete_version(published)
    again = client.publish(make_package(tmp_path / "2", "shared", b"better").layout.path, key)
    assert again.version == 3
    with pytest.raises(NotFoundError, match="shared:3 must hold source files, but only a package was published"):
        client.download_model(again, tmp_path / "none")


def test_p25_source_files_alone_are_not_rolled_out(client: CloudClient, folder: Path) -> None:
    client.register_model("sources", folder)
    with pytest.raises(ConflictError, match="sources:1 must hold a package, but only source files are registered"):
        client.create_rollout(RolloutRequest(model="sources"))


def test_a_folder_that_cannot_be_registered_is_one_line(client: CloudClient, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "out").symlink_to("/etc/hostname")
    with pytest.raises(NotFoundError, match="no such file"):
        client.register_model("odd", tmp_path / "none")
    with pytest.raises(BadInputError, match="must hold 1 to 1000 files, not 0"):
        client.register_model("odd", tmp_path / "empty")
    with pytest.raises(BadInputError, match="out is a link that leads out of it"):
        client.register_model("odd", tmp_path / "linked")
    with pytest.raises(BadInputError, match="a model's name must be"):
        client.register_model("Odd Name", tmp_path)
    with pytest.raises(NotFoundError):
        client.model_versions("odd")


def test_a_download_replaces_nothing(client: CloudClient, folder: Path, tmp_path: Path) -> None:
    version: ModelVersion = client.register_model("careful", folder)
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInputError, match="must not exist yet"):
        client.download_model(version, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []
