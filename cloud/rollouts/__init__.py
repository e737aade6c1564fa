"""Rollouts of a model version to devices in guarded waves. Read rules.py first.

rules         pure functions: plan the waves, decide the next step
store         rows of the database as values
failures      the hardware profiles on which a package is known to fail
observation   the devices' reports as states of a rollout
deployments   offer a version to devices, restore the previous one
engine        the loop that observes, applies the rules and acts; it may be killed between any two statements
operations    create, pause, resume and abort, as the HTTP API offers them
"""
