"""The main job on real data, from training to a stopped bad version; `make demo` runs it."""
