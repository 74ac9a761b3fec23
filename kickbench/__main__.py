# SPDX-License-Identifier: Apache-2.0
"""``python -m kickbench`` is the ``kickbench`` command."""

from kickbench.entry import main

main()
