"""The service: models, devices, rollouts, telemetry, and the page that shows them."""
