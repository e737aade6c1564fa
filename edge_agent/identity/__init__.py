"""The identity of a device: its key and certificate, their enrolment and their renewal."""
