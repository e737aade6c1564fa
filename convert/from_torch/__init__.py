"""Read PyTorch models.

program.py        programs saved by `torch.export.save`, and modules in memory (`export_module`)
script.py         TorchScript archives
examples.py       example inputs for what does not hold the shapes of its inputs
onnx_export.py    a program as a graph: translate, or decompose and translate, or name the operator that ONNX lacks
decompositions.py our rules for operators that the exporter lacks or translates wrongly
free_batch.py     a dynamic batch for programs that were exported with a fixed one
framework.py      import PyTorch, keep it quiet, pass arrays to it and from it

Opening a PyTorch file may unpickle weights or run code, so its author must be trusted. PyTorch is not installed with
edgewright; install it with `pip install torch onnxscript`.
"""

from convert.from_torch.program import export_module

__all__ = ["export_module"]
