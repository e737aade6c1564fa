"""Keras models to ONNX: reader.py walks the model, the other modules convert one kind of layer each."""
