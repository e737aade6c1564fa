"""The scoring server: one model over HTTP.

http/         what every server does: limits, keys, errors, the listening socket, draining
variants/     a variant of a package; read `app.py` first: it lists the steps of a request
scripts/      an entry script with `init()` and `run()`, in worker processes; read `app.py` first
statistics    counts and latency, for `/stats` and `/metrics`
"""
