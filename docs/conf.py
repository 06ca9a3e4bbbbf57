"""How Sphinx makes the site: ``make docs``.

The pages are Markdown that reads as well in the repository. What the site needs beyond that is done
here, in two places: links that lead out of `docs/` are turned, and the pictures are drawn from runs
of small models, into a folder beside the site, so that a build writes nothing into the checkout.
"""

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pictures  # noqa: E402
import site_links  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import fxplastic  # noqa: E402

project = "fxplastic"
author = "the fxplastic authors"
release = version = fxplastic.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["speed_note.md"]  # `tools.bench` puts it into speed.md
# A glob in a table of contents may wait for a page. No page gets lost: one that no table of
# contents names is a warning of its own.
suppress_warnings = ["toc.empty_glob"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the tests run the notebooks, and the code of every page

# In docstrings `name` is code, and a link where there is such an object.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "fxplastic"
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def draw_pictures(app: Sphinx) -> None:
    """Make every picture before the first page is read."""
    pictures.draw_all(pictures_of(app))


def turn_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Lead links out of `docs/` to pages of the site, and pictures to where they were drawn."""
    page = Path(app.srcdir, docname).parent
    drawn = os.path.relpath(pictures_of(app), page)
    source[0] = site_links.turned(source[0], HERE.parent, page.resolve(), drawn)


def pictures_of(app: Sphinx) -> Path:
    """The folder that this build draws into."""
    return Path(app.doctreedir) / "pictures"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both hooks."""
    app.connect("builder-inited", draw_pictures)
    app.connect("source-read", turn_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
