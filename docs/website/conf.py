# SPDX-License-Identifier: Apache-2.0
"""Sphinx's configuration. No font, script or picture comes from another host."""

project = "kickbench"
extensions = ["myst_nb"]  # reads Markdown as myst_parser does, and notebooks
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
myst_heading_anchors = 6
nitpicky = True
smartquotes = False  # quotes are often those of code
html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "logo": {"text": "kickbench"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "footer_start": [],
    "footer_end": [],
    "show_toc_level": 2,
}
html_title = "kickbench"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
