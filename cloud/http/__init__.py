"""The HTTP side: one router per noun, each a table of endpoints (`endpoint.py`), all of them in `routes.py`."""
