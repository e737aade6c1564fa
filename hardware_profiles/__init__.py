"""What kinds of machine there are, which one this is, and which variant fits it."""
