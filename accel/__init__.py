"""Run variants on what a machine has, and measure how fast."""
