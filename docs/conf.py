"""The documentation as a site: `make docs` builds it from these pages and the package's docstrings, in build/site."""

import importlib.metadata

project = "phasejax"
release = importlib.metadata.version("phasejax")
html_title = "phasejax"
html_theme = "furo"
html_static_path: list[str] = []

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3

# One backtick in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
maximum_signature_line_length = 100
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_preprocess_types = True
