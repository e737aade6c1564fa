"""Deploy model versions: pure rules (plan, states, trial), the journal that survives a crash, and the deployer that acts.

Read plan.py first: it decides on the next action. states.py lists the states of a deployment and the events between them, and
trial.py judges a new version. inbox.py queues desired states, and verify_desired.py is the worker that verifies one. workloads.py
gives each workload its part of it, workload.py has the loop of one, and deployer.py carries the actions out.
"""
