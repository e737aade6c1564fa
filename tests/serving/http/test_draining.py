from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import urllib3

from accel.backends.choose import load_session
from edgewright.demo.processes import wait_until
from edgewright.serving.http.server import listen, make_server
from edgewright.serving.variants.app import ScoringApp
from tests.support.tiny_variants import expected_scores, make_variant, tiny_samples


def test_an_open_connection_gets_one_more_response_while_the_server_drains(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "variant")
    app = ScoringApp(load_session(variant), variant.config, model="tiny", version=1)
    samples, server, listening = tiny_samples(2), make_server(app), listen()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/score"
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    serving.start()
    try:
        with urllib3.PoolManager(maxsize=1, retries=False, timeout=20.0) as pool:
            first = pool.request("POST", url, json={"data": samples.tolist()})
            server.should_exit = True
            wait_until(lambda: app.draining, what="draining", timeout_s=10, step_s=0.001)
            last = pool.request("POST", url, json={"data": samples.tolist()})
    finally:
        server.should_exit = True
        serving.join(20)
        app.close()
    assert (first.status, first.headers.get("connection")) == (200, None)
    assert (last.status, last.headers.get("connection")) == (200, "close")
    np.testing.assert_allclose(last.json()["result"], expected_scores(samples), rtol=1e-5)
