"""The servers that benchmarks/serving.py compares with: each loads the same graph and answers `POST /score`."""
