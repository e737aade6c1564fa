"""Train a classifier of handwritten digits on a part of scikit-learn's images, and write the others for the next step."""

import argparse
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from edgewright.sdk import Run

parser = argparse.ArgumentParser()
parser.add_argument("--share", type=float, help="part of the images to train on")
parser.add_argument("--rest", type=Path, help="folder for the other images")
arguments = parser.parse_args()

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(images))
count = int(arguments.share * len(images))
train, rest = order[:count], order[count:]

classifier = LogisticRegression(max_iter=1000).fit(images[train] / 16, labels[train])
joblib.dump(classifier, "outputs/digits.pkl")
np.savez(arguments.rest / "images.npz", images=images[rest], labels=labels[rest])

run = Run.get_context()
run.log("images", count)
model = run.register_model("digits-sklearn", "outputs/digits.pkl")
print(f"trained on {count} images, registered {model.id}")
