"""Pipelines, their jobs and schedules. Read rules.py first.

rules         pure functions: the next steps of one job
store         rows of the database as values
published     versions of published pipelines
schedules     rows of schedules, and which of them are due
clock         times of a cron expression
folder        the files of a job, and what they tell about its steps
step_process  the process that runs a script and notes how it ended; it outlives the cloud
engine        the loop that observes, applies the rules and acts; it may be killed between any two statements
operations    submit, cancel and publish, as the HTTP API offers them
"""
