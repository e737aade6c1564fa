"""Rollouts: pure rules, their store, the engine that advances them, and the operations that the HTTP API offers.

Read rules.py first: it plans waves and decides the next step. engine.py may be killed between any two statements.
"""
