"""The scoring server: one model over HTTP.

http/         what every server does: limits, keys, errors, the listening socket, draining
variants/     a variant of a package; read `app.py` first: it lists the steps of a request
scripts/      an entry script with `init()` and `run()`, in worker processes; read `app.py` first
nocode/       a model file alone: in worker processes with its framework, or ONNX in the server's process
served        the options of a service; `opening` makes the application, `checking` scores its sample
supervision/  run servers as processes that are replaced when they end
statistics    counts and latency, for `/stats` and `/metrics`
"""
