"""Calibration: observe activations on samples, collect ranges and histograms, choose thresholds, and measure the SQNR."""
