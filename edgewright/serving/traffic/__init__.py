"""Traffic between named deployments of a service at one address.

rules    pure: deployments, percentages, mirror; the deployment of the next request
file     the file with both, which may change while the router runs
router   the process that accepts at the address, and passes each request to a deployment
cli      `edgewright endpoints route` and `edgewright endpoints traffic`
"""
