"""Run variants with the backends that a machine has, and measure them.

backends/       ways to run a variant (`choose.load_session` first), and the benchmark that chooses one
npu/            the FPGA accelerator: compiler, models, links to boards
batches.py      graphs with a fixed batch size
comparison.py   the distance of outputs from expected ones; golden.py checks a loaded variant with it
evaluate.py     accuracy, agreement and latency on samples: `edgewright evaluate` (evaluate_cli.py)
latency.py      warm-up and percentiles, for everything that measures time
bench.py        latency, throughput and memory in a process per variant: `edgewright bench` (bench_cli.py, bench_worker.py)
"""
