"""Convert trained models to verified ONNX, cut into featurizer and head.

conversion.py     the steps of a conversion; read this first
read_source.py    the reader for each kind of source (from_keras, from_tensorflow, from_tflite, from_trees, from_torch, from_onnx)
run_source.py     runs of the source model in its own framework, in a separate process
source/           identification, options, process limits, and the comparison with the source
graph/            helpers that build graphs
passes/           passes that simplify graphs
split.py          the cut into featurizer and head
featurizers/      networks that can be built
"""
