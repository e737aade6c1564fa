"""Model versions: registered source files, and failures that are known on a kind of hardware."""
