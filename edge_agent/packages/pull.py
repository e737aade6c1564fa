"""Pull the missing blobs of variants into the store, if the disk has space for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.packages.imported import PackageSource
from edge_agent.storage.store import SlotFile, Store
from edgewright.contracts.oci import Descriptor
from edgewright.contracts.package import PackagedVariant
from edgewright.contracts.variant import CONFIG_FILE


def pull_missing(registry: PackageSource, store: Store, variant: PackagedVariant) -> None:
    """Pull the layers of `variant` that are not in the store, or whose bytes there are damaged.

    Raises:
        StorageFullError: the disk has too little space; nothing was pulled.
    """
    for layer in variant.layers.values():
        store.drop_damaged_blob(layer)
    missing = _missing(store, [variant])
    store.require_space(_bytes_to_pull(store, missing))
    for layer in missing:
        registry.pull(layer)


def bytes_missing(store: Store, variants: Sequence[PackagedVariant]) -> int:
    """Return the number of bytes of these variants that are not in the store; shared layers count once."""
    return _bytes_to_pull(store, _missing(store, variants))


def files_of(variant: PackagedVariant) -> tuple[SlotFile, ...]:
    """Return the files of the variant's directory: the config as `variant.json`, and every layer under its own name."""
    config = variant.manifest.config
    layers = (SlotFile(name=kind.file_name, digest=blob.digest, size=blob.size) for kind, blob in variant.layers.items())
    return (SlotFile(name=CONFIG_FILE, digest=config.digest, size=config.size), *layers)


def _missing(store: Store, variants: Sequence[PackagedVariant]) -> list[Descriptor]:
    """Return the layers that are not in the store; shared layers appear once."""
    layers = {layer.digest: layer for variant in variants for layer in variant.layers.values()}
    return [layer for layer in layers.values() if not store.has_blob(layer.digest, layer.size)]


def _bytes_to_pull(store: Store, missing: Sequence[Descriptor]) -> int:
    return sum(layer.size - _bytes_pulled(store, layer) for layer in missing)


def _bytes_pulled(store: Store, blob: Descriptor) -> int:
    partial = store.partial_path(blob.digest)
    return min(partial.stat().st_size, blob.size) if partial.exists() else 0
