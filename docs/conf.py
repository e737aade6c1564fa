"""Sphinx: the documentation of edgewright (`make docs`)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "edgewright"
author = "the edgewright authors"
copyright = "the edgewright authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "docstrings"]
html_theme = "furo"
html_title = "edgewright"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
smartquotes = False  # it makes a dash of the two hyphens of an option, and quotes that no shell takes
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
