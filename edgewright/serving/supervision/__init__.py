"""Run scoring servers as supervised processes: start, ready, hand over without a lost request, drain.

process       one server process on an inherited socket; the agent uses it as well
placeholder   answers 503 while no server process runs
service       the files between a supervisor and the program that configures it
rules         pure functions: which processes to start and to drain
container     `python -m edgewright.serving.supervision.container`: a container as a server process; relay passes its connections
probe         finds a service that runs and does not answer
logs          the rotated log of a service
keeper        replaces the one server process of `edgewright serve`
supervisor    `python -m edgewright.serving.supervision.supervisor FOLDER`: keeps one service running
"""
