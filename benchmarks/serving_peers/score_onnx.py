"""An entry script that runs the graph."""

import json
import os
from typing import Any

import numpy as np
import onnxruntime

session: Any = None


def init():  # type: ignore[no-untyped-def]
    global session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = os.environ["BENCHMARK_MODEL"]
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(data):  # type: ignore[no-untyped-def]
    (scores,) = session.run(None, {"x": np.asarray(json.loads(data)["data"], dtype=np.float32)})
    return {"result": scores.tolist()}
