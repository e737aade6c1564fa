"""Score images in batches with the newest registered classifier; write one line per image."""

import argparse
from pathlib import Path

import joblib
import numpy as np

from edgewright.sdk import Model, Run

parser = argparse.ArgumentParser()
parser.add_argument("--images", type=Path, help="folder with images.npz")
parser.add_argument("--batch-size", type=int, help="images that are scored at once")
arguments = parser.parse_args()

classifier = joblib.load(Model.get_model_path("digits-sklearn"))
with np.load(arguments.images / "images.npz") as archive:
    images, labels = archive["images"], archive["labels"]

found = []
for begin in range(0, len(images), arguments.batch_size):
    found.extend(classifier.predict(images[begin : begin + arguments.batch_size] / 16))

lines = [f"{number}:{digit}" for number, digit in enumerate(found)]
Path("outputs/result-labels.txt").write_text("\n".join(lines) + "\n")

accuracy = float(np.mean(np.array(found) == labels))
Run.get_context().log("accuracy", accuracy)
print(f"scored {len(images)} images, accuracy {accuracy:.3f}")
