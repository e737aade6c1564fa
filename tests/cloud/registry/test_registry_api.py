"""The OCI distribution API, request by request (protocol.md P20)."""

from __future__ import annotations

import json
import resource
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgewright.contracts import wire
from edgewright.contracts.oci import EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, Manifest, encode_document
from tests.support.running_cloud import Answer, Http, RunningCloud, running
from tests.support.small_packages import push_blob

BLOB = bytes(range(256)) * 40


def begin(operator: Http, repository: str) -> str:
    """Begin an upload and return its location."""
    answer = operator.post(f"/v2/{repository}/blobs/uploads/")
    assert answer.status == 202
    return str(answer.headers["Location"])


def manifest_of(raw: bytes, *, subject: Descriptor | None = None, artifact_type: str = "application/vnd.test") -> bytes:
    layer = Descriptor(mediaType="application/octet-stream", digest=wire.digest_of(raw), size=len(raw))
    config = Descriptor(mediaType=EMPTY_TYPE, digest=wire.digest_of(b"{}"), size=2)
    return encode_document(Manifest(config=config, layers=(layer,), artifactType=artifact_type, subject=subject))


def put_manifest(operator: Http, repository: str, reference: str, raw: bytes, media_type: str = MANIFEST_TYPE) -> Answer:
    return operator.send("PUT", f"/v2/{repository}/manifests/{reference}", raw, {"Content-Type": media_type})


def describe(raw: bytes) -> Descriptor:
    return Descriptor(mediaType=MANIFEST_TYPE, digest=wire.digest_of(raw), size=len(raw))


@pytest.fixture(scope="module")
def pushed(operator: Http) -> bytes:
    """Push one manifest to repository `pushed` under the tag `latest`."""
    push_blob(operator, "pushed", BLOB)
    push_blob(operator, "pushed", b"{}")
    raw = manifest_of(BLOB)
    assert put_manifest(operator, "pushed", "latest", raw).status == 201
    return raw


def test_an_anonymous_container_tool_is_asked_for_basic_authentication(cloud: RunningCloud) -> None:
    answer = cloud.anonymous().get("/v2/")
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="edgewright"')
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


def test_a_blob_is_pulled_as_it_was_pushed(operator: Http) -> None:
    digest = push_blob(operator, "whole", BLOB)
    answer = operator.get(f"/v2/whole/blobs/{digest}")
    assert (answer.status, answer.body, answer.headers["Docker-Content-Digest"]) == (200, BLOB, digest)


def test_head_returns_the_size_of_a_blob(operator: Http) -> None:
    digest = push_blob(operator, "head", BLOB)
    answer = operator.send("HEAD", f"/v2/head/blobs/{digest}")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, str(len(BLOB)), b"")


@pytest.mark.parametrize(
    ("requested", "expected", "content_range"),
    [
        pytest.param("bytes=0-9", BLOB[:10], "bytes 0-9/10240", id="the beginning"),
        pytest.param("bytes=10000-", BLOB[10000:], "bytes 10000-10239/10240", id="from an offset to the end"),
        pytest.param("bytes=-5", BLOB[-5:], "bytes 10235-10239/10240", id="the last bytes"),
        pytest.param("bytes=10239-20000", BLOB[10239:], "bytes 10239-10239/10240", id="beyond the end"),
    ],
)
def test_a_range_of_a_blob(operator: Http, requested: str, expected: bytes, content_range: str) -> None:
    digest = push_blob(operator, "ranges", BLOB)
    answer = operator.get(f"/v2/ranges/blobs/{digest}", {"Range": requested})
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (206, expected, content_range)


def test_a_range_after_the_end_is_416(operator: Http) -> None:
    digest = push_blob(operator, "ranges", BLOB)
    assert operator.get(f"/v2/ranges/blobs/{digest}", {"Range": "bytes=10240-"}).status == 416


def test_a_device_may_pull_but_not_push(cloud: RunningCloud, pushed: bytes, tmp_path: Path) -> None:
    device = cloud.enrol("puller", tmp_path)
    assert device.http.get(f"/v2/pushed/blobs/{wire.digest_of(BLOB)}").body == BLOB
    assert device.http.get("/v2/pushed/manifests/latest").body == pushed
    assert device.http.post("/v2/pushed/blobs/uploads/").status == 403


def test_a_blob_of_one_repository_is_unknown_in_another(operator: Http) -> None:
    digest = push_blob(operator, "private", b"only here")
    answer = operator.get(f"/v2/other/blobs/{digest}")
    assert (answer.status, answer.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")


def test_a_blob_is_mounted_without_a_second_upload(operator: Http) -> None:
    digest = push_blob(operator, "source", b"mounted bytes")
    assert operator.post(f"/v2/target/blobs/uploads/?mount={digest}&from=source").status == 201
    assert operator.get(f"/v2/target/blobs/{digest}").body == b"mounted bytes"


def test_mounting_an_unknown_blob_begins_an_upload(operator: Http) -> None:
    digest = wire.digest_of(b"nowhere")
    assert operator.post(f"/v2/target/blobs/uploads/?mount={digest}&from=source").status == 202


def test_an_upload_in_pieces(operator: Http) -> None:
    location = begin(operator, "pieces")
    first = operator.send("PATCH", location, BLOB[:4000], {"Content-Range": "0-3999"})
    assert (first.status, first.headers["Range"]) == (202, "0-3999")
    assert operator.get(location).headers["Range"] == "0-3999"
    second = operator.send("PATCH", location, BLOB[4000:8000], {"Content-Range": "4000-7999"})
    assert second.status == 202
    digest = wire.digest_of(BLOB)
    assert operator.send("PUT", f"{location}?digest={digest}", BLOB[8000:]).status == 201
    assert operator.get(f"/v2/pieces/blobs/{digest}").body == BLOB


def test_a_piece_out_of_order_is_416_with_the_size_of_the_upload(operator: Http) -> None:
    location = begin(operator, "pieces")
    operator.send("PATCH", location, BLOB[:4000], {"Content-Range": "0-3999"})
    answer = operator.send("PATCH", location, b"late", {"Content-Range": "5000-5003"})
    assert (answer.status, answer.headers["Range"]) == (416, "0-3999")
    assert answer.error == "the next chunk of the upload must begin at byte 4000, not at 5000"


def test_a_piece_whose_length_differs_from_its_content_range_is_400(operator: Http) -> None:
    answer = operator.send("PATCH", begin(operator, "pieces"), b"four", {"Content-Range": "0-99"})
    assert (answer.status, answer.error) == (400, "Content-Range 0-99 must be as long as the body, which has 4 bytes")


def test_an_upload_with_another_digest_is_refused_and_removed(cloud: RunningCloud, operator: Http) -> None:
    promised = wire.digest_of(b"promised")
    answer = operator.send("POST", f"/v2/liar/blobs/uploads/?digest={promised}", b"delivered")
    assert (answer.status, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")
    assert operator.get(f"/v2/liar/blobs/{promised}").status == 404
    assert list((cloud.state / "registry" / "uploads" / "liar").iterdir()) == []


def test_a_finished_upload_cannot_be_continued(operator: Http) -> None:
    location = begin(operator, "finished")
    digest = wire.digest_of(b"done")
    assert operator.send("PUT", f"{location}?digest={digest}", b"done").status == 201
    answer = operator.send("PATCH", location, b"more")
    assert (answer.status, answer.json()["errors"][0]["code"]) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_an_upload_id_with_a_path_is_unknown(operator: Http) -> None:
    assert operator.get("/v2/pushed/blobs/uploads/..%2F..%2Fca.key").status == 404


def test_a_client_that_disconnects_during_an_upload_leaves_nothing(cloud: RunningCloud, operator: Http) -> None:
    digest = wire.digest_of(BLOB)
    address = urlsplit(cloud.url)
    context = ssl.create_default_context(cafile=str(cloud.ca))
    plain = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10)
    with context.wrap_socket(plain, server_hostname=address.hostname) as connection:
        request = f"POST /v2/away/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cloud.token}\r\n"
        connection.sendall(f"{request}Content-Length: {len(BLOB)}\r\n\r\n".encode() + BLOB[:5000])
    location = begin(operator, "away")  # the cloud may notice the closed connection before or after this request
    operator.send("DELETE", location)
    assert operator.get(f"/v2/away/blobs/{digest}").status == 404


def test_a_manifest_is_pulled_by_tag_and_by_digest(operator: Http, pushed: bytes) -> None:
    by_tag = operator.get("/v2/pushed/manifests/latest")
    by_digest = operator.get(f"/v2/pushed/manifests/{wire.digest_of(pushed)}")
    assert by_tag.body == by_digest.body == pushed
    assert by_tag.headers["Content-Type"] == MANIFEST_TYPE
    assert by_tag.headers["Docker-Content-Digest"] == wire.digest_of(pushed)


def test_a_manifest_that_refers_to_a_missing_blob_is_refused(operator: Http) -> None:
    answer = put_manifest(operator, "incomplete", "latest", manifest_of(b"never pushed"))
    assert (answer.status, answer.json()["errors"][0]["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert operator.get("/v2/incomplete/manifests/latest").status == 404


def test_a_manifest_under_another_digest_is_refused(operator: Http, pushed: bytes) -> None:
    answer = put_manifest(operator, "pushed", wire.digest_of(b"other"), pushed)
    assert (answer.status, answer.json()["errors"][0]["code"]) == (400, "DIGEST_INVALID")


def test_a_manifest_whose_media_type_differs_from_its_header_is_refused(operator: Http, pushed: bytes) -> None:
    answer = put_manifest(operator, "pushed", "latest", pushed, INDEX_TYPE)
    assert (answer.status, answer.json()["errors"][0]["code"]) == (400, "MANIFEST_INVALID")


def test_an_index_of_pushed_manifests_is_accepted(operator: Http, pushed: bytes) -> None:
    raw = encode_document(Index(manifests=(describe(pushed),)))
    assert put_manifest(operator, "pushed", "index", raw, INDEX_TYPE).status == 201
    assert operator.get("/v2/pushed/manifests/index").body == raw


def test_tags_are_listed_in_lexical_order_and_in_pages(operator: Http) -> None:
    push_blob(operator, "tagged", BLOB)
    push_blob(operator, "tagged", b"{}")
    for tag in ("b", "a", "C", "d"):
        put_manifest(operator, "tagged", tag, manifest_of(BLOB))
    assert operator.get("/v2/tagged/tags/list").json() == {"name": "tagged", "tags": ["C", "a", "b", "d"]}
    page = operator.get("/v2/tagged/tags/list?n=2")
    assert page.json()["tags"] == ["C", "a"]
    next_page = page.headers["Link"].partition("<")[2].partition(">")[0]
    assert operator.get(next_page).json()["tags"] == ["b", "d"]


def test_the_tags_of_an_empty_repository_are_404(operator: Http) -> None:
    assert operator.get("/v2/nothing-here/tags/list").json()["errors"][0]["code"] == "NAME_UNKNOWN"


def test_referrers_are_listed_for_their_subject(operator: Http, pushed: bytes) -> None:
    signature = manifest_of(BLOB, subject=describe(pushed), artifact_type="application/vnd.test.signature")
    answer = put_manifest(operator, "pushed", wire.digest_of(signature), signature)
    assert answer.headers["OCI-Subject"] == wire.digest_of(pushed)
    referrers = operator.get(f"/v2/pushed/referrers/{wire.digest_of(pushed)}")
    assert referrers.headers["Content-Type"] == INDEX_TYPE
    assert [each["digest"] for each in referrers.json()["manifests"]] == [wire.digest_of(signature)]
    other = operator.get(f"/v2/pushed/referrers/{wire.digest_of(pushed)}?artifactType=application/other")
    assert (other.json()["manifests"], other.headers["OCI-Filters-Applied"]) == ([], "artifactType")


def test_a_digest_without_referrers_has_an_empty_list(operator: Http) -> None:
    answer = operator.get(f"/v2/pushed/referrers/{wire.digest_of(b'unknown')}")
    assert (answer.status, answer.json()["manifests"]) == (200, [])


def test_manifests_cannot_be_deleted(operator: Http, pushed: bytes) -> None:
    answer = operator.send("DELETE", f"/v2/pushed/manifests/{wire.digest_of(pushed)}")
    assert (answer.status, answer.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")


def test_an_upload_continues_after_a_kill_which_leaves_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, "--no-broker") as cloud:
        location = begin(cloud.operator(), "killed")
        cloud.operator().send("PATCH", location, BLOB[:4000])
        cloud.kill()
    with running(state, "--no-broker") as cloud:
        operator = cloud.operator()
        files = [path for path in (state / "registry").rglob("*") if path.is_file()]
        assert [path.parent for path in files] == [state / "registry" / "uploads" / "killed"]
        answer = operator.get(location)
        assert (answer.status, answer.headers["Range"]) == (204, "0-3999")
        answer = operator.send("PUT", f"{location}?digest={wire.digest_of(BLOB)}", BLOB[4000:])
        assert answer.status == 201
        assert operator.get(f"/v2/killed/blobs/{wire.digest_of(BLOB)}").body == BLOB


def test_a_full_disk_is_507_and_leaves_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--no-broker") as cloud:
        operator, size = cloud.operator(), 4 << 20
        raw = b"\0" * size
        # A limit of 3 MiB on files of this process simulates a full disk without privileges.
        resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, (size - (1 << 20), size - (1 << 20)))
        answer = operator.send("POST", f"/v2/big/blobs/uploads/?digest={wire.digest_of(raw)}", raw)
        assert (answer.status, json.loads(answer.body)["error"]) == (
            507,
            "the upload exceeds the largest permitted file size: raise the limit (ulimit -f) and try again",
        )
        assert list((cloud.state / "registry" / "uploads" / "big").iterdir()) == []
        assert push_blob(operator, "big", b"small") == wire.digest_of(b"small")


@pytest.mark.parametrize("size", [10, 5000, 100_000])
def test_a_small_piece_that_finds_no_room_is_507_too(tmp_path: Path, size: int) -> None:
    with running(tmp_path / "state", "--no-broker") as cloud:
        operator, limit = cloud.operator(), 3 << 20
        location = begin(operator, "small")
        assert operator.send("PATCH", location, b"\0" * (limit - 5)).status == 202
        resource.prlimit(cloud.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        assert operator.send("PATCH", location, b"\0" * size).status == 507
        assert operator.get(location).status == 404
