"""Sphinx's configuration of the documentation; ``make docs`` builds it into site/."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import sitepages

from navnode import __version__

project = "navnode"
author = "the navnode contributors"
copyright = "the navnode contributors; Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["sitepages", "_build"]
nitpicky = False  # docstrings name private types, which have no page
highlight_language = "none"
smartquotes = False  # they make one dash of the two before an option
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["ref.python"]  # `bytes` in a signature is also the name of several fields: no link, then

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
toc_object_entries = False  # every page repeats the whole tree: with them the build takes twice as long
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"navnode {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5d7a", "color-brand-content": "#0b5d7a"},
    "dark_css_variables": {"color-brand-primary": "#5cc3e6", "color-brand-content": "#5cc3e6"},
    "footer_icons": [],
}


def setup(app: Sphinx) -> None:
    """References are written before Sphinx looks for pages."""
    app.connect("config-inited", lambda *_: sitepages.write(HERE / "reference"))
