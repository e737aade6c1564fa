"""Referrers of a manifest in a registry, such as signatures and bills of materials, with and without the referrers API.

Source: OCI distribution specification 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

from dataclasses import replace

from edgewright.contracts import wire
from edgewright.contracts.oci import INDEX_TYPE, Descriptor, Index, encode_document
from edgewright.errors import NotFoundError, OperationError
from edgewright.registries.client import RegistryClient


def push_referrer(registry: RegistryClient, raw: bytes, entry: Descriptor, subject: str) -> None:
    """Push a manifest that refers to `subject`, whose blobs are there.

    Where the registry has no referrers API, an index under the fallback tag lists it; referrers of other tools stay listed.

    Args:
        registry: the repository.
        raw: the bytes of the manifest.
        entry: its descriptor, with the artifact type.
        subject: the digest that it refers to.
    """
    if registry.push_manifest(raw, entry.mediaType, entry.digest):
        return
    listed = _listed_under_fallback_tag(registry, subject)
    if entry.digest not in {each.digest for each in listed.manifests}:
        added = replace(listed, manifests=(*listed.manifests, entry))
        registry.push_manifest(encode_document(added), INDEX_TYPE, _fallback_tag(subject))


def referrers(registry: RegistryClient, subject: str) -> tuple[Descriptor, ...]:
    """Return the manifests that refer to a digest; none if the registry lists none."""
    try:
        raw = registry.referrers(subject)
    except NotFoundError:
        return _listed_under_fallback_tag(registry, subject).manifests
    return wire.decode(raw, Index, what=f"the referrers of {subject}", error=OperationError).manifests


def _listed_under_fallback_tag(registry: RegistryClient, subject: str) -> Index:
    tag = _fallback_tag(subject)
    try:
        return wire.decode(registry.manifest(tag)[0], Index, what=f"the referrers {tag}", error=OperationError)
    except NotFoundError:
        return Index(manifests=())


def _fallback_tag(subject: str) -> str:
    return subject.replace(":", "-")
