"""An entry script with a scikit-learn classifier, trained on the digits when it starts."""

import json
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

model: Any = None


def init():  # type: ignore[no-untyped-def]
    global model
    pixels, digits = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=20).fit(pixels[:500] / 16, digits[:500])


def run(data):  # type: ignore[no-untyped-def]
    return model.predict(np.array(json.loads(data)["data"])).tolist()
