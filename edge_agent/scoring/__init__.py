"""Keep one model version answering on the scoring port: supervisor, runner process, and the placeholder until one is ready."""
