"""Short-lived worker processes of the agent: worker.py runs and implements them, requests.py holds their requests."""
