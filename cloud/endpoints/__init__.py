"""Scoring endpoints on this machine. Read rules.py first.

rules        pure functions: the next step of one endpoint
store        rows of the database as values
content      the files of a deployment, from the registry to a folder, and the command that serves them
supervisors  start, find and stop the supervisor process of an endpoint
engine       the loop that observes, applies the rules and acts; it may be killed between any two statements
operations   deploy, update, replace a key and delete, as the HTTP API offers them
"""
