"""From ONNX to layers: what the NPU computes, before anybody asks where it lies.

    layers          the two kinds of layer that there are; what all others here make
    qdq             reads a quantized graph
    microscaling    weights in blocks with a scale of their own, as the array takes them
    operators       the arithmetic of single operators
    inputs          what the host does to an input by constants, as it hands it over
    coverage        where each operator runs: a row of the report
    lower           walks the graph, and says of every operator where it runs and why

Nothing here knows a profile or a memory, but for the channels of a vector, where a Concat asks; that is the compiler's work.
"""
