"""The documentation as a site: `make docs` builds it from these pages and the package's docstrings, in build/site."""

import importlib.metadata

from sphinx.ext.napoleon import GoogleDocstring

project = "phasejax"
release = importlib.metadata.version("phasejax")
html_title = "phasejax"
html_theme = "furo"
html_static_path: list[str] = []
# Commands of a hundred characters fit into a line.
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}, "dark_css_variables": {"code-font-size": "75%"}}
# Summaries are fetched, which a browser does not do from a folder.
html_show_search_summary = False
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
