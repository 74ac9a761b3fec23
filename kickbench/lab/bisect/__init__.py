# SPDX-License-Identifier: Apache-2.0
"""Finds the commit that changed an exact count, by building and counting kernels in the lab."""
