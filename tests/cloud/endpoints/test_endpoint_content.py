"""The files of a deployment: where models and scripts are, and what a full disk leaves."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.db.database import Database
from cloud.endpoints.content import EndpointFolder, RegistryAccess, desired_service, prepare, remove_unused
from cloud.endpoints.store import StoredEndpoint
from cloud.endpoints.supervisors import Supervisors, notify
from cloud.registry import registered
from cloud.registry.blobs import BlobStore
from edgewright.contracts.endpoints import (
    FILES_REPOSITORY,
    DeployedModel,
    Deployment,
    EndpointAuth,
    EndpointKeys,
    EndpointLabels,
    EndpointState,
)
from edgewright.contracts.models.registration import FILE_TYPE, RegisterRequest, Registration, SourceFile, source_documents
from edgewright.contracts.oci import EMPTY_BLOB, descriptor_of
from edgewright.errors import StorageFullError
from edgewright.serving.supervision.service import ServiceFolder, ServiceState, ServiceStatus

NOW = datetime(2026, 12, 1, tzinfo=UTC)
REGISTRY = RegistryAccess()
KEYS = EndpointKeys(primary="p" * 20, secondary="s" * 20)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "registry", Database.open(f"sqlite:///{tmp_path / 'cloud.db'}"))
    store.prepare()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> EndpointFolder:
    return EndpointFolder(tmp_path / "endpoints" / "service")


def put(blobs: BlobStore, repository: str, raw: bytes) -> str:
    digest = descriptor_of(raw, FILE_TYPE).digest
    with blobs.database.transaction() as connection:
        blobs.put(connection, repository, raw, digest)
    return digest


def register(blobs: BlobStore, name: str, folder: Path) -> DeployedModel:
    """Register a model of one file, whose content is its name."""
    path = folder / f"{name}.bin"
    path.write_text(name)
    documents = source_documents([(path.name, path)])
    for raw in (path.read_bytes(), EMPTY_BLOB):
        put(blobs, name, raw)
    for raw in (documents.manifest, documents.index):
        put(blobs, name, raw)
    request = RegisterRequest(index=documents.index_descriptor, registration=Registration())
    version = registered.register(blobs, name, request, NOW)
    return DeployedModel(name=name, version=version.version)


def endpoint(blobs: BlobStore, *models: DeployedModel, generation: int = 1, **fields: object) -> StoredEndpoint:
    raw = b"def init(): ...\n"
    files = (SourceFile(path="code/score.py", digest=put(blobs, FILES_REPOSITORY, raw), size=len(raw)),)
    deployment = Deployment(models=models, files=files, entry_script="code/score.py", **fields)  # type: ignore[arg-type]
    return StoredEndpoint(
        name="service",
        owner="",
        deployment=deployment,
        labels=EndpointLabels(),
        keys=KEYS,
        generation=generation,
        port=1,
        state=EndpointState.TRANSITIONING,
        reason="",
        answering=None,
        is_deleted=False,
        created_at=NOW,
        changed_at=NOW,
        deployed_at=NOW,
    )


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def test_one_model_is_the_model_folder_and_several_are_below_it(blobs: BlobStore, folder: EndpointFolder, tmp_path: Path) -> None:
    first, second = register(blobs, "first", tmp_path), register(blobs, "second", tmp_path)
    prepare(folder, endpoint(blobs, first), blobs, REGISTRY)
    prepare(folder, endpoint(blobs, first, second, generation=2), blobs, REGISTRY)
    one = folder.deployment(1) / "azureml-models" / "first" / "1"
    several = folder.deployment(2) / "azureml-models"
    assert (one / "first.bin").read_text() == "first"
    assert option(desired_service(folder, endpoint(blobs, first), REGISTRY).generation.command, "--model-dir") == str(one)
    both = desired_service(folder, endpoint(blobs, first, second, generation=2), REGISTRY).generation
    assert option(both.command, "--model-dir") == str(several)
    assert sorted(path.relative_to(several).as_posix() for path in several.rglob("*.bin")) == [
        "first/1/first.bin",
        "second/1/second.bin",
    ]
    assert (folder.deployment(2) / "files" / "code" / "score.py").is_file()


def test_keys_are_closed_to_others_and_not_at_all_without_authentication(blobs: BlobStore, folder: EndpointFolder) -> None:
    prepare(folder, endpoint(blobs), blobs, REGISTRY)
    assert folder.has_keys(KEYS)
    assert folder.keys.stat().st_mode & 0o007 == 0
    command = desired_service(folder, endpoint(blobs, auth=EndpointAuth.OFF), REGISTRY).generation.command
    assert "--keys" not in command
    assert KEYS.primary not in " ".join(desired_service(folder, endpoint(blobs), REGISTRY).generation.command)


def test_a_full_disk_leaves_nothing_of_the_deployment(
    blobs: BlobStore, folder: EndpointFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = register(blobs, "large", tmp_path)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageFullError, match="not enough disk space to write .*/deployments/1: free some space"):
        prepare(folder, endpoint(blobs, model), blobs, REGISTRY)
    assert list((folder.path / "deployments").iterdir()) == []
    assert folder.service.desired() is None


def test_only_used_deployments_are_kept(blobs: BlobStore, folder: EndpointFolder) -> None:
    for generation in (1, 2, 3):
        prepare(folder, endpoint(blobs, generation=generation), blobs, REGISTRY)
    remove_unused(folder, (3, 2, None))
    assert sorted(path.name for path in (folder.path / "deployments").iterdir()) == ["2", "3"]


def test_a_process_that_has_got_the_id_of_a_supervisor_is_not_signalled(tmp_path: Path) -> None:
    folder = ServiceFolder(tmp_path)
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as foreign:
        assert foreign.stdin is not None
        assert foreign.stdout is not None
        foreign.stdout.readline()
        folder.write_status(ServiceStatus(pid=foreign.pid, nonce="n", generation=1, state=ServiceState.RUNNING))
        with folder.supervising() as is_first:
            assert is_first
            assert folder.is_supervised()
            notify(folder)
            Supervisors().stop(folder)
        foreign.stdin.close()
        assert foreign.wait(10) == 0
    assert not folder.is_supervised()


def test_the_lock_admits_one_supervisor(tmp_path: Path) -> None:
    folder = ServiceFolder(tmp_path)
    with folder.supervising() as first, folder.supervising() as second:
        assert (first, second) == (True, False)
