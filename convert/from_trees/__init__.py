"""scikit-learn, LightGBM and XGBoost models to ONNX; ensemble.py writes the tree operators."""
