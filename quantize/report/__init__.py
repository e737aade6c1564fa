"""The report: one HTML page on all variants of a build, with accuracy, size, latency and SQNR per layer."""
