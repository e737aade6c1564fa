"""Package indexes of files for pip: wheels with one module each."""

from __future__ import annotations

import zipfile
from pathlib import Path


def wheel(folder: Path, name: str, version: str, requires: str = "", tag: str = "py3-none-any") -> None:
    """Write a wheel (PEP 427) with one module, and its page in a simple index (PEP 503)."""
    place = folder / name.replace("_", "-")
    place.mkdir(exist_ok=True)
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    texts = {
        f"{stem}.py": f"VERSION = {version!r}\nTAG = {tag!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    texts[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*texts, f"{info}/RECORD"))
    with zipfile.ZipFile(place / f"{stem}-{version}-{tag}.whl", "w") as archive:
        for path, text in texts.items():
            archive.writestr(path, text)
    links = "".join(f'<a href="{each.name}">{each.name}</a>' for each in sorted(place.glob("*.whl")))
    (place / "index.html").write_text(f"<html><body>{links}</body></html>")
