# SPDX-License-Identifier: Apache-2.0
"""What a person reads: a run in words, in figures, and as one HTML file.

Everything here reads a results folder through :mod:`kickbench.results` and knows nothing of how it
was measured. :mod:`~kickbench.report.data` loads a run, :mod:`~kickbench.report.words` says what it
found, :mod:`~kickbench.report.figures` draws it, :mod:`~kickbench.report.build` writes the page.
"""
