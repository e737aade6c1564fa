"""LightGBM and XGBoost models, and the trees of scikit-learn, to ONNX; ensemble.py emits the tree operators."""
