"""A supervisor process with a real server: a server that hangs is replaced, and removal of the folder ends everything."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.serving.supervision.service import DesiredService, Generation, ServiceFolder
from tests.support.endpoints import score, wait_until

SCRIPT = "import os\ndef init(): ...\ndef run(data): return os.getppid()\n"


@pytest.fixture
def service(tmp_path: Path) -> ServiceFolder:
    """A service whose server is replaced after a second without an answer."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "score.py").write_text(SCRIPT)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = (sys.executable, "-P", "-m", "edgewright", "serve", "score.py", "--json")
    generation = Generation(number=1, command=command, directory=str(folder), hang_timeout_s=1.0)
    found = ServiceFolder(folder)
    found.write_desired(DesiredService(host="127.0.0.1", port=port, generation=generation))
    return found


def test_a_server_that_hangs_is_replaced_and_a_removed_folder_ends_the_supervisor(service: ServiceFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgewright.serving.supervision.supervisor", str(service.path), "nonce"]
    desired = service.desired()
    assert desired is not None
    uri = f"http://127.0.0.1:{desired.port}/score"
    with subprocess.Popen(command) as supervisor:
        try:
            wait_until(lambda: is_ready(service))
            _, hanging = score(uri, None)
            os.kill(hanging, signal.SIGSTOP)
            status, answering = score(uri, None)  # waits in the queue of the socket until the next server is ready
            shutil.rmtree(service.path.rename(tmp_path / "removed"))  # at once, since the supervisor may write into it
            ended = supervisor.wait(30)
        finally:
            supervisor.terminate()
    assert (status, ended) == (200, 0)
    assert answering != hanging
    for process in (hanging, answering):
        assert not Path(f"/proc/{process}").exists()


def is_ready(service: ServiceFolder) -> bool:
    status = service.status()
    return status is not None and status.ready == 1
