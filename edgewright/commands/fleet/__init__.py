"""Commands that act on many devices at once."""
