# SPDX-License-Identifier: Apache-2.0
"""The HTML of reports: the page of a run, that of a comparison, and the list of a folder's pages.

:mod:`~kickbench.report.pages.html` puts a page together from a template, one style and one script,
and makes foreign text safe. :mod:`kickbench.report.words` and :mod:`kickbench.report.figures` have
the content.
"""
