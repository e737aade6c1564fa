"""ONNX graphs, for conversion and quantization: files, the parts of a cut graph, lazy weights, and dead code.

The `onnx` packages are required, so code that runs on a device must not import this package.
"""
