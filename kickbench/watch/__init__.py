# SPDX-License-Identifier: Apache-2.0
"""A VM that runs already, seen from outside by programs in the kernel."""
