"""Keras models to ONNX.

keras_file.py       facts from a file's saved configuration, before Keras is loaded
reader.py           walks the layers of a loaded model; read this first
call.py             one call of one layer: the argument of every rule
layers.py, activations.py, recurrent.py, operations.py    the rules, one per kind of layer
layouts.py          channels-last and channels-first tensors
geometry.py         padding
custom_layers.py    rules for the user's own layers
legacy.py           HDF5 files and files of Keras 2
"""
