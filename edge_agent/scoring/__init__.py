"""Keep one model version scoring on the local port: supervisor, runner process, and the placeholder before the first version."""
