"""The identity of a device: its key, its certificate, and how it gets both by enrolment."""
