"""`edgewright demo`: the main job on real data, from training to the halted rollout of a bad version.

Read `story.py` first: it is the list of steps, each of which runs edgewright's own commands.
"""
