"""The device: pull, verify, run, update safely or roll back, report."""
