"""HTTP/1.1 over one connection: read connection.py first; the parser, the time limits and the bytes of responses help it."""
