"""Score with a model file alone, without a script: the kinds that the Azure ML v1 no-code deployment knew, and two more.

    identify       the framework of a file or folder
    onnx_graph     ONNX: in the server process, with the routes of a variant
    worker         the others: in worker processes that hold the framework, with the pool of the entry scripts
    frameworks     load a model of scikit-learn, LightGBM, XGBoost, Keras or TensorFlow; one function each
    model          a loaded model, as the worker sees it
    requests       JSON, CSV, .npy and Open Inference Protocol to the values that a model takes
    answers        outputs to the format that the client accepts

The framework itself computes the answers. Nothing is converted at the start, so the answers are those of the trained model.
`edgewright convert` is the way to a smaller and faster service. A framework runs in processes of its own, because it may crash,
hang or hold the interpreter; ONNX Runtime does not need that.
"""
