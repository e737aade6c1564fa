"""Names of the package onnx-tf."""
