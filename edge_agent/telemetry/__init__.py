"""Report to the cloud: state reports, metrics, and the outbox that stores both until they are delivered."""
