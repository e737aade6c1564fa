"""Pipelines: what steps run in which order, and the jobs that run them.

expressions  `${{…}}` in arguments and inputs
definition   steps, parameters, and the rules that they must follow: read this first
jobs         a run of a pipeline with the state of each step, and the requests of a client
schedules    when a published pipeline runs without a request
"""
