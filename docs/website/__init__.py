# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site.

The pages stay what they are on GitHub: ``docs/*.md`` and the README. :mod:`website.stage` copies
them, beside reference pages that are made from the code, to a folder that a generator builds from.
"""
