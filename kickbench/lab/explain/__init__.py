# SPDX-License-Identifier: Apache-2.0
"""``kickbench lab explain``: every instruction of an exit, by function."""
