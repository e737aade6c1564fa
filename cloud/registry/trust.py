"""Refuse a registered pickle that would be served without trust, before anything is built or started for it."""

from __future__ import annotations

from pathlib import PurePosixPath

from edgewright.contracts.messages import ModelVersion
from edgewright.serving.nocode.identify import check_trusted


def check_trusted_files(version: ModelVersion, *, trust: bool) -> None:
    """Check a version that is served without a script; a package beside its files is served in their place.

    Raises:
        BadInputError: its file is a pickle, which can run any code, and `trust` is False.
    """
    if len(version.files) == 1 and not version.variants:
        check_trusted(PurePosixPath(version.files[0].path), trust=trust)
