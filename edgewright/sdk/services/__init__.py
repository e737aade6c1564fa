"""Environments, inference configurations and services as objects, with the verbs of Azure ML's SDK v1.

`environment.py` and `conda.py` describe what a script needs; `inference.py` is a script with its environment; `deployment.py`
checks where and how a service runs; `deploying.py` makes the request; `webservice.py` and `kinds.py` are the services.
"""
