"""Lower a quantized ONNX graph to NPU layers.

    layers          the two kinds of layer
    qdq             reads a quantized graph
    microscaling    block-scaled weights in the form that the array executes
    operators       the arithmetic of single operators
    inputs          preprocessing of inputs on the host
    functions       functions of one tensor
    tables          a table of 256 results as a sum of lines
    coverage        one row of the coverage report
    segments        the parts of the NPU, between which the host computes
    walk            the state of the pass over the graph, and the steps that operators share
    opset           the newest operator set that onnxruntime runs int8 graphs of
    lower           walks the graph and assigns every operator to the NPU or the host, with the reason

Layers are independent of the profile and of memory addresses; only Concat depends on the number of channels in a vector.
"""
