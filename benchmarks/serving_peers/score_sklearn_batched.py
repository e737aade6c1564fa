"""The classifier of score_sklearn.py, with a `run` that scores the requests that wait for it together."""

import json

import numpy as np
import score_sklearn  # type: ignore[import-not-found]

from edgewright.serving.scripts.schema import batched

init = score_sklearn.init


@batched(max_batch_size=32)
def run(inputs):  # type: ignore[no-untyped-def]
    rows = np.array([json.loads(each)["data"][0] for each in inputs])
    return [[label] for label in score_sklearn.model.predict(rows).tolist()]
