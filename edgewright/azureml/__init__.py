"""The old import names of Azure ML's SDK v1 and its companions: thin aliases of our own modules, one file per old module.

Start at `core/`; the objects themselves are in `edgewright/sdk/workspace/` and `edgewright/serving/scripts/`.
"""
