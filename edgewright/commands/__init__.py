"""Command groups that use several packages; each is imported only when it is called."""
