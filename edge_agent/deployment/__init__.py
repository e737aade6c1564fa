"""Deploy one model version: pure rules (plan, states, trial), the journal that survives a crash, and the deployer that acts.

Read plan.py first: it decides the next action. states.py lists the states of a deployment and the events between them, trial.py
judges a new version,
verify_desired.py checks a desired state before anything acts on it, and deployer.py carries the actions out.
"""
