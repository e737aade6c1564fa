"""The HTTP API: one module per noun with a table of endpoints (`endpoint.py`); `routes.py` joins the tables."""
