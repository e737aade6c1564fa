"""Short-lived worker processes of the agent: the orders that they take and how they are started and stopped."""
