# SPDX-License-Identifier: Apache-2.0
"""What a person reads: a run in words, in figures, and as one HTML file.

Everything here reads what a run found (:mod:`kickbench.summary`) and knows nothing of how it was
measured. :mod:`~kickbench.report.words` says what was found, in sentences and tables.
:mod:`~kickbench.report.figures` draws it. :mod:`~kickbench.report.pages` makes HTML of both. Each
has one table with an entry a kind of measurement or a figure: ``ANSWERS`` and ``TABLES``,
``FIGURES``.
"""

import logging

# Before any module of this package imports matplotlib, which warns of a home folder that it cannot
# write its cache to (it then takes a temporary folder) and of fonts that only a browser needs.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
