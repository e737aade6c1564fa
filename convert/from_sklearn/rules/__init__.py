"""One rule per estimator, by the name of its class; skl2onnx.py converts the estimators that no other module has a rule for."""
