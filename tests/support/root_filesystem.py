"""Root filesystems of Debian, also of another architecture, in which an installed agent runs.

`EDGEWRIGHT_ROOT_FILESYSTEMS` names a folder with tars of earlier runs (`bookworm-arm64.tar`), because making one takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

INCLUDED = "python3,python3-venv"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
CACHE = "EDGEWRIGHT_ROOT_FILESYSTEMS"


class RootFilesystem:
    """A folder in which programs run by chroot, with `/proc` and the host's network."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, *words: str) -> list[str]:
        """Return the command that runs `words` inside; its mounts end with it."""
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.path), *words]

    def run(self, *words: str, timeout_s: float = 1200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=timeout_s, check=False)

    def processes(self, word: str) -> list[psutil.Process]:
        """Return the processes inside whose command line has `word`."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                is_inside = Path(f"/proc/{process.pid}/root").readlink() == self.path
            except OSError:
                continue
            if is_inside and word in (process.info["cmdline"] or []):
                found.append(process)
        return found


def make(folder: Path, suite: str, architecture: str) -> RootFilesystem:
    """Make a root filesystem below `folder`, or skip the test where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    if architecture == "arm64" and os.uname().machine != "aarch64" and not (BINFMT / "qemu-aarch64").exists():
        pytest.skip("arm64 programs need qemu-user-static, registered in binfmt_misc")
    cache = os.environ.get(CACHE)
    tar = Path(cache or folder) / f"{suite}-{architecture}.tar"
    if not tar.exists():
        if shutil.which("mmdebstrap") is None:
            pytest.skip("mmdebstrap must be installed")
        command = ["mmdebstrap", f"--architectures={architecture}", "--variant=minbase", f"--include={INCLUDED}", suite, str(tar)]
        subprocess.run(command, check=True, capture_output=True, timeout=3600)
    root = (folder / "root").resolve()
    root.mkdir()
    subprocess.run(["tar", "-xf", str(tar), "-C", str(root)], check=True, timeout=600)
    return RootFilesystem(root)
