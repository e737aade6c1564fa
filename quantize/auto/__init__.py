"""`quantize --scheme auto`: automatic.py makes every variant that fits; pareto.py finds those that no other one beats."""
