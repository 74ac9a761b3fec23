# SPDX-License-Identifier: Apache-2.0
"""The HTML of reports: the page of a run, that of a comparison, and the list of a folder's pages.

:mod:`~kickbench.report.pages.html` puts a page together from a template, one style and one script,
and makes safe what others wrote. What a page says and shows is in the other two wings.
"""
