from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgewright.contracts import package, signing, wire
from edgewright.contracts.environments import file_layers
from edgewright.contracts.oci import REF_NAME, Index, OciLayout, Platform
from edgewright.contracts.variant import LayerKind
from edgewright.errors import NotFoundError, PackageError
from tests.support.tiny_build import make_tiny_build

PROFILES = {"fp32": ["generic-x86-64"], "int8": ["x86-64-vnni", "raspberry-pi-5"]}
PLATFORMS = {
    "fp32": [Platform(os="linux", architecture="amd64")],
    "int8": [Platform(os="linux", architecture="arm64"), Platform(os="linux", architecture="amd64")],
}


def pack(folder: Path, **parts: bytes) -> tuple[OciLayout, package.Package]:
    build = make_tiny_build(folder / "build", **parts)
    layout = OciLayout.create(folder / "package")
    return layout, package.write_package(build, layout, name="digits", profiles=PROFILES, platforms=PLATFORMS)


def every_byte(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_package_is_read_as_it_was_written(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    assert package.read_package(layout) == written
    assert written.name == "digits"
    assert [variant.config.variant for variant in written.variants] == ["fp32", "int8"]
    assert written.variant("int8").config.profiles == ("raspberry-pi-5", "x86-64-vnni")
    assert set(written.variant("fp32").layers) == {
        LayerKind.GRAPH,
        LayerKind.FEATURIZER_WEIGHTS,
        LayerKind.HEAD_WEIGHTS,
        LayerKind.GOLDEN_INPUTS,
        LayerKind.GOLDEN_OUTPUTS,
    }


def test_a_variant_for_two_architectures_has_one_manifest_and_a_descriptor_for_each(tmp_path: Path) -> None:
    _, written = pack(tmp_path)
    entries = [entry for entry in written.index.manifests if entry.annotations[package.VARIANT] == "int8"]
    assert [entry.platform and entry.platform.architecture for entry in entries] == ["amd64", "arm64"]
    assert len({entry.digest for entry in entries}) == 1


def test_the_same_build_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    first, _ = pack(tmp_path / "a")
    second, _ = pack(tmp_path / "b")
    assert every_byte(first.path) == every_byte(second.path)
    package.write_tar(first, tmp_path / "a.tar")
    package.write_tar(second, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_new_head_changes_only_what_depends_on_it(tmp_path: Path) -> None:
    _, old = pack(tmp_path / "a", head=b"H" * 64)
    _, new = pack(tmp_path / "b", head=b"J" * 64)
    before, after = old.variant("fp32").layers, new.variant("fp32").layers
    assert before[LayerKind.FEATURIZER_WEIGHTS] == after[LayerKind.FEATURIZER_WEIGHTS]
    assert before[LayerKind.GRAPH] == after[LayerKind.GRAPH]
    assert before[LayerKind.HEAD_WEIGHTS] != after[LayerKind.HEAD_WEIGHTS]


def test_a_package_has_a_time_only_with_source_date_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    _, written = pack(tmp_path)
    assert written.index.annotations[package.CREATED] == "2023-11-14T22:13:20Z"


def test_one_changed_byte_in_any_blob_is_found(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    for blob in written.blobs():
        path = layout.blob_path(blob.digest)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(PackageError, match=f"^blob {blob.digest} must have {blob.size} bytes of that digest, but"):
            package.verify_blobs(layout, written)
        path.write_bytes(whole)
    package.verify_blobs(layout, written)


def test_a_missing_blob_is_found(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    layout.blob_path(written.variant("int8").manifest.layers[0].digest).unlink()
    with pytest.raises(PackageError, match="the package is incomplete$"):
        package.verify_blobs(layout, written)


def test_a_package_is_copied_as_one_tar(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    package.write_tar(layout, tmp_path / "digits.tar")
    with package.opened(tmp_path / "digits.tar") as unpacked:
        assert package.read_package(unpacked) == written
        package.verify_blobs(unpacked, written)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"no tar at all", "is not a package: it must be an OCI layout directory or a tar of one", id="text"),
        pytest.param(b"", "is not a package: it must be an OCI layout directory or a tar of one", id="empty"),
    ],
)
def test_a_file_that_is_not_a_package_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(PackageError, match=message), package.opened(tmp_path / "x.tar"):
        pass


def test_a_tar_with_members_outside_is_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(PackageError, match="is not a package"), package.opened(tmp_path / "evil.tar"):
        pass
    assert not (tmp_path.parent / "outside").exists()


def test_a_missing_package_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such package"), package.opened(tmp_path / "nothing"):
        pass


def test_a_signature_is_found_beside_its_package(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    key = signing.generate_key()
    binding = signing.PackageSignature(
        index_digest=written.digest, model="digits", version=1, expires_at=datetime.now(UTC) + timedelta(days=1)
    )
    package.attach_signature(layout, written, signing.sign_package(binding, key))
    (envelope,) = package.signatures(layout, written)
    trusted = signing.TrustedKeys([key.public_key()])
    assert signing.verify_package(envelope, trusted, index_digest=written.digest, now=datetime.now(UTC)) == binding
    assert package.read_package(layout) == written


def without_entry_types(layout: OciLayout) -> None:
    """Rewrite `index.json` as container tools do: entries have no artifactType."""
    entries = layout.read_index().manifests
    layout.write_index(Index(manifests=tuple(replace(entry, artifactType=None, annotations={}) for entry in entries)))


def without_index_type(layout: OciLayout) -> None:
    """Rewrite the package's index without its artifactType; only the annotation with the model's name is left."""
    (entry,) = layout.read_index().manifests
    index = wire.decode(layout.read_blob(entry), Index, what="index")
    written = layout.write_document(replace(index, artifactType=None))
    layout.write_index(Index(manifests=(replace(written, artifactType=None),)))


def with_two_tags(layout: OciLayout) -> None:
    (entry,) = layout.read_index().manifests
    tagged = [replace(entry, artifactType=None, annotations={REF_NAME: tag}) for tag in ("1", "latest")]
    layout.write_index(Index(manifests=tuple(tagged)))


@pytest.mark.parametrize("rewrite", [without_entry_types, without_index_type, with_two_tags])
def test_a_layout_that_a_container_tool_wrote_is_read(tmp_path: Path, rewrite: Callable[[OciLayout], None]) -> None:
    layout, written = pack(tmp_path)
    rewrite(layout)
    copied = package.read_package(layout)
    assert (copied.name, copied.blobs()) == (written.name, written.blobs())


def test_a_signature_without_a_type_in_the_layout_is_found_and_replaced(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    package.attach_signature(layout, written, b"first")
    without_entry_types(layout)
    assert package.signatures(layout, written) == (b"first",)
    assert package.read_package(layout) == written
    package.attach_signature(layout, written, b"second")
    assert package.signatures(layout, written) == (b"second",)


def test_an_index_of_another_kind_is_not_a_package(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    variant = written.variant("fp32").descriptor
    with pytest.raises(PackageError, match="cannot be read|must have artifactType"):
        package.read_index(layout, variant)


def test_an_unknown_variant_offers_the_nearest(tmp_path: Path) -> None:
    _, written = pack(tmp_path)
    with pytest.raises(NotFoundError) as unknown:
        written.variant("int4")
    assert str(unknown.value) == "package digits has no variant 'int4'; known: int8"


def test_unknown_fields_of_documents_are_ignored(golden: Callable[[str, str], None], tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    raw = layout.read_blob(written.descriptor)
    golden("package_index.json", wire.encode_readable(wire.decode(raw, dict, what="index")).decode())
    extended = raw.replace(b'{"annotations"', b'{"aNewField":1,"annotations"', 1)
    assert extended != raw
    assert wire.decode(extended, type(written.index), what="index") == written.index


def test_a_layer_is_a_tar_around_one_file_that_its_annotations_locate(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    variant = written.variant("int8")
    for layer, (kind, file) in zip(variant.manifest.layers, variant.layers.items(), strict=True):
        blob, offset = file_layers.place_of(file)
        raw = layout.blob_path(blob).read_bytes()
        with tarfile.open(layout.blob_path(layer.digest), "r:") as tar:
            [member] = [each for each in tar.getmembers() if each.isfile()]
            stream = tar.extractfile(member)
            assert stream is not None
            assert stream.read() == raw[offset : offset + file.size]
        assert (blob, member.name) == (layer.digest, f"opt/edgewright/models/digits/{kind.file_name}")
        assert file.digest == wire.digest_of(raw[offset : offset + file.size])


def as_written_before(layout: OciLayout, written: package.Package) -> package.Package:
    """Rewrite a package as earlier versions wrote it: each layer is the file itself."""
    entries = []
    for variant in written.variants:
        layers = []
        for file in variant.layers.values():
            blob, offset = file_layers.place_of(file)
            raw = layout.blob_path(blob).read_bytes()[offset : offset + file.size]
            layers.append(layout.write_blob(raw, file.mediaType))
        entries.append(layout.write_document(replace(variant.manifest, layers=tuple(layers))))
    return package.read_index(layout, layout.write_document(replace(written.index, manifests=tuple(entries))))


def test_a_package_whose_layers_are_the_files_themselves_is_read(tmp_path: Path) -> None:
    layout, written = pack(tmp_path)
    old = as_written_before(layout, written)
    old_files, new_files = (each.variant("fp32").layers for each in (old, written))
    assert {kind: file.digest for kind, file in old_files.items()} == {kind: file.digest for kind, file in new_files.items()}
    unpacked = [package.unpack_variant(layout, each.variant("fp32"), tmp_path / str(n)) for n, each in enumerate((old, written))]
    assert every_byte(unpacked[0].path) == every_byte(unpacked[1].path)


@pytest.mark.parametrize("offset", ["-1", "1e3", "", "99999999", "9" * 19])
def test_a_layer_whose_file_is_not_in_it_is_refused(offset: str, tmp_path: Path) -> None:
    _, written = pack(tmp_path)
    layer = written.variant("fp32").manifest.layers[0]
    with pytest.raises(PackageError, match="must state dev.edgewright.file.size and|must end within its"):
        file_layers.file_of(replace(layer, annotations=layer.annotations | {file_layers.FILE_OFFSET: offset}))
