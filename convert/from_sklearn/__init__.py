"""scikit-learn estimators and pipelines to ONNX.

reader.py is the entry. It builds a `Network` (network.py), which looks up a rule per estimator in the folder `rules`. files.py
opens files, inputs.py lays out the inputs, and source.py runs the estimator itself for the comparison.
"""
