"""FastAPI under uvicorn, with an asynchronous route: `fastapi_app.py MODEL PORT`."""

import sys
from typing import Any

import fastapi
import numpy as np
import onnxruntime
import pydantic
import uvicorn

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
app = fastapi.FastAPI()


class Body(pydantic.BaseModel):
    data: list[list[float]]


@app.post("/score")  # type: ignore[untyped-decorator]
async def score(body: Body) -> Any:
    (scores,) = session.run(None, {"x": np.asarray(body.data, dtype=np.float32)})
    return {"result": scores.tolist()}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
