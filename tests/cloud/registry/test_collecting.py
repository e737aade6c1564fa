"""Unreferenced blobs are removed, and nothing else: whatever is referred to, in use, or on its way into the registry stays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from cloud.db.database import Database
from cloud.db.schema import manifests, repository_blobs, tags
from cloud.images import store as images
from cloud.registry import collecting, registered
from cloud.registry import manifests as manifest_store
from cloud.registry.blobs import BlobStore, BlobUnknownError, link_blob
from edgewright.contracts.environments.images import ImageRequest
from edgewright.contracts.models.maintenance import Collected
from edgewright.contracts.models.registration import RegisterRequest, Registration, source_documents
from edgewright.contracts.oci import EMPTY_BLOB, INDEX_TYPE, MANIFEST_TYPE, Descriptor

NOW = datetime(2026, 12, 1, tzinfo=UTC)
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Iterator[BlobStore]:
    """A store on SQLite, and on a real PostgreSQL server."""
    database = Database.open(database_url)
    blobs = BlobStore(tmp_path / "registry", database)
    blobs.prepare()
    yield blobs
    database.close()


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def push(store: BlobStore, repository: str, raw: bytes) -> str:
    with store.database.transaction() as connection:
        store.put(connection, repository, raw, digest_of(raw))
    return digest_of(raw)


def register(store: BlobStore, model: str, content: bytes, folder: Path) -> int:
    """Register a version with one file, as a client does; return its number."""
    path = folder / "model.bin"
    path.write_bytes(content)
    documents = source_documents([("model.bin", path)])
    for raw in (content, EMPTY_BLOB):
        push(store, model, raw)
    for raw, kind in ((documents.manifest, MANIFEST_TYPE), (documents.index, INDEX_TYPE)):
        with store.database.transaction() as connection:
            manifest_store.put(connection, store, repository=model, reference=digest_of(raw), raw=raw, media_type=kind)
    request = RegisterRequest(index=documents.index_descriptor, registration=Registration())
    return registered.register(store, model, request, NOW).version


def age(store: BlobStore, hours: float = 48) -> None:
    """Make all blobs and uploads look unused for that many hours."""
    when = NOW.timestamp() - hours * HOUR_S
    for path in (*store.stored(), *(store.root / "uploads").glob("*/*")):
        os.utime(path, (when, when))


def collect(store: BlobStore) -> Collected:
    return collecting.collect(store, grace_s=DAY_S, now=NOW)


def delete(store: BlobStore, model: str, version: int) -> None:
    with store.database.transaction() as connection:
        registered.delete_version(connection, model, version)


def is_whole(store: BlobStore, model: str, content: bytes) -> bool:
    return store.blob_path(model, digest_of(content)).read_bytes() == content


def test_the_files_of_a_deleted_version_are_removed_after_the_grace_time(store: BlobStore, tmp_path: Path) -> None:
    register(store, "digits", b"first", tmp_path)
    version = register(store, "digits", b"second", tmp_path)
    delete(store, "digits", version)
    age(store, hours=23)
    assert collect(store) == Collected(blobs=0, size_bytes=0)
    age(store, hours=25)
    collected = collect(store)
    assert collected.blobs == 3  # the file, its manifest and its index
    assert collected.size_bytes > len(b"second")
    assert is_whole(store, "digits", b"first")
    with pytest.raises(BlobUnknownError):
        store.blob_path("digits", digest_of(b"second"))
    with store.database.reading() as connection:
        assert len(connection.execute(select(manifests)).all()) == 2
    assert register(store, "digits", b"second", tmp_path) == 3
    assert is_whole(store, "digits", b"second")


def test_a_file_that_another_version_or_model_has_stays(store: BlobStore, tmp_path: Path) -> None:
    first, _ = register(store, "digits", b"shared", tmp_path), register(store, "other", b"shared", tmp_path)
    delete(store, "digits", first)
    age(store)
    collect(store)
    assert is_whole(store, "other", b"shared")
    with pytest.raises(BlobUnknownError):
        store.blob_path("digits", digest_of(b"shared"))


def test_what_a_tag_or_a_referrer_of_it_names_stays(store: BlobStore, tmp_path: Path) -> None:
    subject = f'{{"mediaType":"{MANIFEST_TYPE}","digest":"%s","size":%d}}'
    config = f'{{"mediaType":"a/b","digest":"{push(store, "tagged", b"config")}","size":6}}'
    tagged = f'{{"schemaVersion":2,"config":{config},"layers":[]}}'.encode()
    signature = (
        f'{{"schemaVersion":2,"config":{config},"layers":[],"subject":{subject % (digest_of(tagged), len(tagged))}}}'.encode()
    )
    orphan = signature.replace(digest_of(tagged).encode(), digest_of(b"removed").encode())
    with store.database.transaction() as connection:
        for raw, reference in ((tagged, "latest"), (signature, digest_of(signature)), (orphan, digest_of(orphan))):
            manifest_store.put(connection, store, repository="tagged", reference=reference, raw=raw, media_type=MANIFEST_TYPE)
    age(store)
    assert collect(store) == Collected(blobs=1, size_bytes=len(orphan))
    assert is_whole(store, "tagged", signature)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda store, digest: store.blob_path("digits", digest), id="a client looks for it"),
        pytest.param(lambda store, digest: store.mount("other", digest, "digits"), id="another repository mounts it"),
        pytest.param(lambda store, digest: push(store, "digits", b"left"), id="it is pushed again"),
    ],
)
def test_a_blob_that_was_used_within_the_grace_time_stays(use: Callable[[BlobStore, str], object], store: BlobStore) -> None:
    digest = push(store, "digits", b"left")
    age(store)
    use(store, digest)
    assert collect(store).blobs == 0
    assert is_whole(store, "digits", b"left")


def test_an_upload_in_progress_stays_and_an_abandoned_one_goes(store: BlobStore) -> None:
    abandoned = store.begin_upload("digits")
    age(store)
    active = store.begin_upload("digits")
    with store.continuing("digits", active, 0) as upload:
        upload.write(b"piece")
        collect(store)
        upload.write(b"rest")
    store.finish_upload("digits", active, digest_of(b"piecerest"))
    collect(store)
    assert is_whole(store, "digits", b"piecerest")
    assert not (store.root / "uploads" / "digits" / abandoned).exists()


def test_an_upload_that_took_longer_than_the_grace_time_stays(store: BlobStore) -> None:
    upload_id = store.begin_upload("digits")
    with store.continuing("digits", upload_id, 0) as upload:
        upload.write(b"slow")
    age(store)
    store.finish_upload("digits", upload_id, digest_of(b"slow"))
    assert collect(store).blobs == 0


def test_cached_layers_stay_while_an_image_is_built_and_its_source_after_it(store: BlobStore) -> None:
    layer = store.path_of(digest_of(b"cached layer"))
    layer.write_bytes(b"cached layer")
    source = Descriptor(mediaType="a/b", digest=push(store, "scorer", b"source folder"), size=13)
    request = ImageRequest(name="scorer", models=(), script="score.py", source=source)
    with store.database.transaction() as connection:
        record = images.create(connection, request, NOW)
    age(store)
    assert collect(store).blobs == 0
    with store.database.transaction() as connection:
        images.fail(connection, record, "it fails", NOW)
    assert collect(store) == Collected(blobs=1, size_bytes=len(b"cached layer"))
    assert is_whole(store, "scorer", b"source folder")


class KilledError(Exception):
    """The end of the process at this step."""


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_end_between_any_two_steps_loses_nothing_and_the_next_run_finishes(
    at: int, store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, "digits", b"kept", tmp_path)
    delete(store, "digits", register(store, "digits", b"removed", tmp_path))
    age(store)
    remaining = at
    remove = BlobStore.remove_unshown

    def until_killed(self: BlobStore, path: Path, since: float) -> int | None:
        nonlocal remaining
        if remaining == 0:
            raise KilledError
        size = remove(self, path, since)
        remaining -= size is not None
        return size

    with monkeypatch.context() as patched:
        patched.setattr(BlobStore, "remove_unshown", until_killed)
        with pytest.raises(KilledError):
            collect(store)
    assert is_whole(store, "digits", b"kept")
    assert collect(store).blobs == 3 - at
    assert register(store, "digits", b"removed", tmp_path) == 3
    assert is_whole(store, "digits", b"removed")


def test_a_push_between_the_two_steps_keeps_the_blob(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = push(store, "digits", b"again")
    age(store)
    list_files = BlobStore.stored

    def push_meanwhile(self: BlobStore) -> list[Path]:
        files = list_files(self)
        push(self, "digits", b"again")
        return files

    monkeypatch.setattr(BlobStore, "stored", push_meanwhile)
    assert collect(store).blobs == 0
    assert store.blob_path("digits", digest).read_bytes() == b"again"


def test_a_row_without_its_file_is_an_unknown_blob(store: BlobStore) -> None:
    with store.database.transaction() as connection:
        link_blob(connection, "digits", digest_of(b"missing"))
        connection.execute(insert(tags).values(repository="digits", tag="x", digest=digest_of(b"missing")))
        assert connection.execute(select(repository_blobs)).all()
    with pytest.raises(BlobUnknownError):
        store.blob_path("digits", digest_of(b"missing"))
    assert not store.mount("other", digest_of(b"missing"), "digits")
    assert collect(store).blobs == 0
