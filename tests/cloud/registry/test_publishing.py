"""Publishing of model versions (protocol.md P21, P22)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgewright.contracts import signing, wire
from edgewright.contracts.package import SIGNATURE_TYPE
from tests.support.running_cloud import Http, RunningCloud
from tests.support.small_packages import make_package, push, push_blob, push_manifest


@pytest.fixture(scope="module")
def publisher(cloud: RunningCloud) -> signing.PrivateKey:
    """A publisher whose key was trusted while the cloud was running."""
    key = signing.generate_key()
    (cloud.state / "trusted" / "publisher.pub").write_text(signing.public_pem(key.public_key()))
    return key


def test_p21_a_pushed_and_signed_package_becomes_version_1(operator: Http, publisher: signing.PrivateKey, tmp_path: Path) -> None:
    small = make_package(tmp_path, "digits")
    push(operator, small, "digits")
    answer = operator.post("/v1/models/digits/versions", small.signed(publisher, 1))
    assert answer.status == 201, answer.body
    version = answer.json()
    assert (version["model"], version["version"], version["variants"]) == ("digits", 1, ["fp32"])
    assert version["size_bytes"] == small.package.descriptor.size + sum(blob.size for blob in small.package.blobs())
    assert version["key_id"] == signing.key_id(publisher.public_key())
    assert operator.get("/v1/models/digits").json() == [version]
    assert version in operator.get("/v1/models").json()


def test_p21_the_version_is_a_tag_and_the_signature_a_referrer(
    operator: Http, publisher: signing.PrivateKey, tmp_path: Path
) -> None:
    small = make_package(tmp_path, "referred")
    push(operator, small, "referred")
    body = small.signed(publisher, 1)
    operator.post("/v1/models/referred/versions", body)
    assert wire.digest_of(operator.get("/v2/referred/manifests/1").body) == small.package.digest
    referrers = operator.get(f"/v2/referred/referrers/{small.package.digest}?artifactType={SIGNATURE_TYPE}").json()["manifests"]
    manifest = operator.get(f"/v2/referred/manifests/{referrers[0]['digest']}").json()
    assert operator.get(f"/v2/referred/blobs/{manifest['layers'][0]['digest']}").json() == body["envelope"]


def test_p21_a_version_that_is_not_the_next_is_409_with_the_next(
    operator: Http, publisher: signing.PrivateKey, tmp_path: Path
) -> None:
    small = make_package(tmp_path, "counted")
    push(operator, small, "counted")
    answer = operator.post("/v1/models/counted/versions", small.signed(publisher, 2))
    assert (answer.status, answer.error) == (409, "the next version of counted is 1, not 2: sign and publish it as 1")
    assert operator.post("/v1/models/counted/versions", small.signed(publisher, 1)).status == 201
    again = operator.post("/v1/models/counted/versions", small.signed(publisher, 1))
    assert (again.status, again.error) == (409, "the next version of counted is 2, not 1: sign and publish it as 2")


def test_p21_a_missing_blob_is_409_and_names_it(operator: Http, publisher: signing.PrivateKey, tmp_path: Path) -> None:
    small = make_package(tmp_path, "holey", graph=b"this graph was pushed elsewhere")
    push(operator, small, "elsewhere")
    answer = operator.post("/v1/models/holey/versions", small.signed(publisher, 1))
    assert answer.status == 409
    assert answer.error.startswith(f"holey:1 cannot be published: repository holey has no blob {small.package.digest}")


def test_p21_a_signature_by_an_untrusted_key_is_409(operator: Http, publisher: signing.PrivateKey, tmp_path: Path) -> None:
    small = make_package(tmp_path, "strange")
    push(operator, small, "strange")
    answer = operator.post("/v1/models/strange/versions", small.signed(signing.generate_key(), 1))
    assert answer.status == 409
    assert answer.error.startswith("strange:1 cannot be published: the signature must be by a trusted key, but it is by ")
    assert answer.error.endswith("; on the cloud's machine, 'edgewright cloud trust KEY.pub' adds a key")
    assert operator.get("/v1/models/strange").status == 404


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"version": 2}, "the signature is for promised:2", id="another version"),
        pytest.param({"model": "other"}, "the signature is for other:1", id="another model"),
        pytest.param({"index_digest": wire.digest_of(b"x")}, "the signature must be for sha256:", id="another package"),
        pytest.param(
            {"expires_at": datetime.now(UTC) - timedelta(days=1)}, "the signature of promised:1 expired at ", id="expired"
        ),
    ],
)
def test_p21_a_signature_over_another_package_model_or_version_is_409(
    operator: Http, publisher: signing.PrivateKey, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    small = make_package(tmp_path, "promised")
    push(operator, small, "promised")
    answer = operator.post("/v1/models/promised/versions", small.signed(publisher, 1, **changes))
    assert answer.status == 409
    assert answer.error.startswith(f"promised:1 cannot be published: {reason}")


def test_p21_a_package_of_another_model_is_409(operator: Http, publisher: signing.PrivateKey, tmp_path: Path) -> None:
    small = make_package(tmp_path, "mine")
    push(operator, small, "yours")
    answer = operator.post("/v1/models/yours/versions", small.signed(publisher, 1))
    assert (answer.status, answer.error) == (409, "yours:1 cannot be published: the package is of model mine, not of yours")


def test_p21_the_tag_of_a_published_version_never_moves(operator: Http, publisher: signing.PrivateKey, tmp_path: Path) -> None:
    small = make_package(tmp_path, "fixed")
    push(operator, small, "fixed")
    operator.post("/v1/models/fixed/versions", small.signed(publisher, 1))
    variant = small.package.variants[0].descriptor
    headers = {"Content-Type": variant.mediaType}
    answer = operator.send("PUT", "/v2/fixed/manifests/1", small.layout.read_blob(variant), headers)
    assert answer.status == 409
    assert answer.error == "fixed:1 is a published version and never changes; publish a new version instead"


def test_the_unchanged_blobs_of_the_next_version_need_no_upload(
    operator: Http, publisher: signing.PrivateKey, tmp_path: Path
) -> None:
    first, second = make_package(tmp_path / "1", "grown", b"one"), make_package(tmp_path / "2", "grown", b"two")
    push(operator, first, "grown")
    operator.post("/v1/models/grown/versions", first.signed(publisher, 1))
    variant = second.package.variants[0]
    [layer] = variant.manifest.layers
    push_blob(operator, "grown", second.layout.read_blob(layer))
    push_blob(operator, "grown", second.layout.read_blob(variant.manifest.config))
    push_manifest(operator, "grown", variant.descriptor, second.layout)
    push_manifest(operator, "grown", second.package.descriptor, second.layout)
    assert operator.post("/v1/models/grown/versions", second.signed(publisher, 2)).status == 201


def test_a_device_may_not_publish(cloud: RunningCloud, publisher: signing.PrivateKey, tmp_path: Path) -> None:
    small = make_package(tmp_path, "denied")
    answer = cloud.enrol("publisher-device", tmp_path).http.post("/v1/models/denied/versions", small.signed(publisher, 1))
    assert answer.status == 403


def test_an_unknown_model_is_404(operator: Http) -> None:
    answer = operator.get("/v1/models/unknown-model")
    assert answer.status == 404
    assert answer.error.startswith("no model is called 'unknown-model'")
