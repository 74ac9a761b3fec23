# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: ``nox -s docs`` builds it, checks it and looks at it.

The pages stay what they are on GitHub: ``docs/*.md`` and the README. :mod:`website.stage` copies
them, beside reference pages that are made from the code, to a folder from which Sphinx builds.
"""
