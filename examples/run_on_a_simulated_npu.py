"""Run a small network on a simulated FPGA board, and print the cycles and the time of the real one.

    python examples/run_on_a_simulated_npu.py OUTPUT

Convert, quantize in the NPU's number format and compile; then score the same samples on the functional model and on the RTL of
the board, which is connected by a virtual serial line. The outputs are equal bit for bit. Needs verilator and a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from accel.backends.choose import load_session
from accel.npu.machines.simulated_board import simulated_board
from accel.npu.profile import find_profile
from convert.conversion import ConvertOptions, convert_model
from edgewright.compiling import compile_variant
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import VariantDirectory
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme

PORT = "EDGEWRIGHT_NPU_DEVICE"


def main(output: Path) -> None:
    """Build a network of two convolutions and run it on the board."""
    output.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).uniform(0, 1, (64, 16, 16, 3)).astype(np.float32)
    save_network(output / "small.keras")
    np.savez(output / "samples.npz", image=images)
    profile = find_profile("npu-sim-8-large")

    build = convert_model(output / "small.keras", output / "build", ConvertOptions(samples=output / "samples.npz"))
    quantize(build, QuantizeOptions(scheme=Scheme.NPU_INT8, samples=output / "samples.npz", max_drop=None))
    report = compile_variant(build, profile)
    cost = report.estimate
    print(f"{profile.name}: {cost.counters.cycles:,} cycles, {cost.compute_ms:.3f} ms at {cost.clock_mhz:g} MHz")

    variant = build.variant(report.variant)
    model = score(variant, images[:4], port="none")
    with simulated_board(profile) as port:
        board = score(variant, images[:4], port=port)
    equal = all(np.array_equal(model[name], board[name]) for name in model)
    print("board and functional model: " + ("equal in every bit" if equal else "DIFFERENT"))


def save_network(path: Path) -> None:
    """Write a small Keras CNN with random weights; Keras is imported here, because it takes seconds."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(image, keras.layers.Dense(10, name="scores")(x)).save(path)


def score(variant: VariantDirectory, images: np.ndarray, *, port: str) -> Tensors:
    """Return the variant's outputs, from the board on `port`, or for `none` from the functional model."""
    os.environ[PORT] = port
    session = load_session(variant)
    try:
        outputs = session.run({"image": images})
        print(f"scored {len(images)} images on: {session.describe()['featurizer']}")
        return outputs
    finally:
        session.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    main(parser.parse_args().output)
