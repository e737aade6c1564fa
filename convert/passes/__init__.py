"""Passes that make a graph smaller and simpler without changing the function that it computes.

    simplify.py        the order of the passes (`PASSES`), and `simplify`, which runs them
    cleanup.py         functions, constants, identities, names, shapes
    layout.py          transposes
    padding.py         automatic padding
    convolutions.py    padding, batch normalization and scales, folded into convolutions
    values.py          helpers

Passes of `onnx_ir` are used where they exist.
"""
