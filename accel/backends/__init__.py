"""Backends that run variants: one module each, imported on first use.

backend.py      the protocols `Backend` and `Session`
choose.py       load a variant by backend name, or on the fastest backend (`auto`)
benchmark.py    candidates side by side in worker processes (benchmark_worker.py)
onnxruntime_cpu.py, openvino_cpu.py, npu_board.py    the backends; openvino_inputs.py checks what OpenVINO itself does not
"""
