from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import urllib3

from edgewright.serving.server import listen
from tests.accel.tiny_variants import expected_scores, make_variant, tiny_samples

SERVER = """
import socket, sys
from pathlib import Path
from accel.backends.choose import load_session
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.app import ScoringApp
from edgewright.serving.server import run_server
variant = VariantDirectory.open(Path(sys.argv[1]))
app = ScoringApp(load_session(variant), variant.config, model="tiny", version=1)
print("ready", flush=True)
run_server(app, socket=socket.socket(fileno=int(sys.argv[2])))
"""


def test_an_open_connection_has_its_next_answer_after_the_process_was_asked_to_end(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "variant")
    samples = tiny_samples(2)
    with listen() as listening:
        command = [sys.executable, "-c", SERVER, str(variant.path), str(listening.fileno())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[listening.fileno()])
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/score"
            with urllib3.PoolManager(maxsize=1, retries=False, timeout=20.0) as pool:
                assert pool.request("POST", url, json={"data": samples.tolist()}).headers.get("connection") is None
                process.send_signal(signal.SIGTERM)
                last = pool.request("POST", url, json={"data": samples.tolist()})
            assert last.status == 200
            np.testing.assert_allclose(last.json()["result"], expected_scores(samples), rtol=1e-5)
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close() if process.stdout else None
