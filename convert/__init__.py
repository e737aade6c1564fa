"""Turn a trained model into verified ONNX, cut into featurizer and head."""
