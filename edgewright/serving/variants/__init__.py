"""Score with one variant of a package. Read `app.py` first: it lists the steps of a request and the module of each."""
