"""Calibration: run samples, collect ranges and histograms of activations, choose thresholds, and measure the noise."""
