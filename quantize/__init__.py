"""Turn a float graph into variants of lower precision, each with its measured accuracy.

quantization.py   the steps for every scheme: read this first
scheme.py         the schemes, and what they share: the source graph, a variant's files, the result
fp16.py, int8/, dynamic/, mx/, npu/    the schemes
auto/             `--scheme auto`: every variant that fits, and the front of those
weights/          edit the weights of a graph; store them as int8 for layers that compute in float32
calibration/      observed graphs, ranges, histograms, thresholds, SQNR
rewrites/         graph rewrites that preserve the computed function
report/           `edgewright report`
"""
