"""Certificates of devices, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def self_signed(folder: Path, name: str, common_name: str, *, authority: bool = False) -> None:
    """Make NAME.pem and NAME.key."""
    extra = ["-addext", f"basicConstraints=critical,CA:{'TRUE' if authority else 'FALSE'}"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        folder, "req", "-x509", *curve, "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *extra
    )


def issued(folder: Path, name: str, common_name: str, authority: str) -> None:
    """Make NAME.pem and NAME.key, issued by an authority."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(folder, "req", *curve, "-subj", f"/CN={common_name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    by = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2"]
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", *by, "-out", f"{name}.pem")
