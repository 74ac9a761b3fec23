# SPDX-License-Identifier: Apache-2.0
"""kickbench from Python: read runs, measure, compare and draw.

Use the names by ``import kickbench``: they are there, as ``kickbench.read`` is. docs/python.md
says which of them are a promise. Nothing here prints, and nothing ends the program.
"""
