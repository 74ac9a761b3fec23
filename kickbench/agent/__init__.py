# SPDX-License-Identifier: Apache-2.0
"""What runs on a machine that somebody measures from elsewhere. Standard library only.

:mod:`kickbench.agent.bootstrap` is the first code there. :mod:`kickbench.agent.server` answers the
other end of the connection, and :mod:`kickbench.agent.supervisor` measures, with or without a
connection. :mod:`kickbench.remote` is the other end.
"""
