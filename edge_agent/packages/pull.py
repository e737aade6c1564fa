"""Bring variants into the store: only the blobs that are missing, and only when the disk has room for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.packages.oci_client import Registry
from edge_agent.storage.store import SlotFile, Store
from edgewright.contracts.oci import Descriptor
from edgewright.contracts.package import PackagedVariant
from edgewright.contracts.variant import CONFIG_FILE


def pull_missing(registry: Registry, store: Store, variant: PackagedVariant) -> None:
    """Pull the layers of `variant` that the store lacks; raise `StorageFullError` before the first when there is no room."""
    missing = _missing(store, [variant])
    store.require_room(_bytes_to_come(store, missing))
    for layer in missing:
        registry.pull(layer)


def bytes_missing(store: Store, variants: Sequence[PackagedVariant]) -> int:
    """Return how many bytes of these variants together are not here yet."""
    return _bytes_to_come(store, _missing(store, variants))


def files_of(variant: PackagedVariant) -> tuple[SlotFile, ...]:
    """Return the files that make up the variant's directory: the config as `variant.json`, every layer under its own name."""
    config = variant.manifest.config
    layers = (SlotFile(name=kind.file_name, digest=blob.digest, size=blob.size) for kind, blob in variant.layers.items())
    return (SlotFile(name=CONFIG_FILE, digest=config.digest, size=config.size), *layers)


def _missing(store: Store, variants: Sequence[PackagedVariant]) -> list[Descriptor]:
    """Return the layers that are not here, each once, however many variants share it."""
    layers = {layer.digest: layer for variant in variants for layer in variant.layers.values()}
    return [layer for layer in layers.values() if not store.has_blob(layer.digest, layer.size)]


def _bytes_to_come(store: Store, missing: Sequence[Descriptor]) -> int:
    return sum(layer.size - _already_here(store, layer) for layer in missing)


def _already_here(store: Store, blob: Descriptor) -> int:
    partial = store.partial_path(blob.digest)
    return min(partial.stat().st_size, blob.size) if partial.exists() else 0
