"""Find the smallest CPU and memory with which a service holds a rate of requests within a latency.

profile    run the search and write the report: read this first
search     which size is tried next: pure rules
service    the real scoring server, under the limits of a size
limits     CPU and memory limits by control groups, or by affinity
load       the clients: requests at a rate that does not wait for answers
"""
