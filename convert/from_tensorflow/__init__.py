"""TensorFlow SavedModels and frozen graphs to ONNX, in a process with limits (runner.py)."""
