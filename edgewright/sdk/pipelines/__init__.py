"""Pipelines as a client sees them.

calls       methods of `CloudClient`: publish, run, watch, read files; schedules
file        a pipeline described in a YAML file
parameters, data, steps, pipeline, runs, published, schedule
            the objects that users of Azure ML's SDK v1 know, mapped on the calls
"""
