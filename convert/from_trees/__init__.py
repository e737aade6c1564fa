"""scikit-learn, LightGBM and XGBoost models to ONNX; ensemble.py emits the tree operators."""
