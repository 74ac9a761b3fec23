# SPDX-License-Identifier: Apache-2.0
"""Watches a VM that runs already, from outside: its exits, its kicks and its protocol."""
