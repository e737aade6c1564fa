"""The cloud service: models, devices, rollouts, telemetry, and a console. Read service.py, then app.py, then http/routes.py."""
