"""The documentation as a site: `make docs` builds it from these pages and the package's docstrings, in build/site."""

import importlib.metadata

from sphinx.ext.napoleon import GoogleDocstring

project = "phasejax"
release = importlib.metadata.version("phasejax")
html_title = "phasejax"
html_theme = "furo"
html_static_path: list[str] = []
html_show_copyright = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
myst_enable_extensions = ["html_image"]

# One backtick in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_preprocess_types = True


def _whole(docstring: GoogleDocstring) -> tuple[str, list[str]]:
    """A field's docstring as it stands: what is before its first colon is not the field's type."""
    return "", type(docstring)(docstring._consume_to_end(), docstring._config).lines()


GoogleDocstring._consume_inline_attribute = _whole  # type: ignore[method-assign]
