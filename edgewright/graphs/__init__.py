"""ONNX graphs as convert and quantize share them: files, the parts of a cut graph, lazy weights, and dead code.

Needs the `onnx` packages, so nothing that runs on a device imports it.
"""
