"""The agent of one device: it pulls, verifies and runs model versions, updates or rolls back safely, and reports.

Read agent.py first. deployment/ decides on and carries out updates, packages/ fetches them, scoring/ and drivers/ run them.
identity/ and renewal.py hold the credentials, link/ the connection, telemetry/ the reports, storage/ the files, workers/ the
short-lived processes.
"""
