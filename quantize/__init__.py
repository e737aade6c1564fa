"""Turn one graph into variants of less precision, each with its measured accuracy."""
