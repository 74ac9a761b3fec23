# SPDX-License-Identifier: Apache-2.0
"""The errors a user can meet, each with the exit code that scripts can rely on.

A message is one or two lines: what is wrong, and what to do about it. The command line prints it
as it is; only ``--debug`` adds the traceback.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_HOST = 3
EXIT_MEASUREMENT = 4
EXIT_INTERRUPTED = 130


class KickbenchError(Exception):
    """Base of all errors that are reported in a line instead of a traceback."""

    exit_code = EXIT_MEASUREMENT


class UsageError(KickbenchError):
    """The command was called in a way that cannot work (exit code 2)."""

    exit_code = EXIT_USAGE


class ScenarioError(UsageError):
    """A scenario file is missing, unreadable or wrong (exit code 2)."""


class ResultsError(UsageError):
    """A results folder is missing, damaged or of a newer schema (exit code 2)."""


class HostError(KickbenchError):
    """This host cannot do what was asked: no /dev/kvm, no permission, no such CPU (exit code 3)."""

    exit_code = EXIT_HOST


class MeasurementError(KickbenchError):
    """The measurement failed: a guest crashed, a worker died, the disk is full (exit code 4)."""

    exit_code = EXIT_MEASUREMENT


class StorageError(MeasurementError):
    """Results cannot be stored any more: the whole run ends, not just one case (exit code 4)."""


class ConnectionBrokenError(MeasurementError):
    """The connection to another machine broke. What was measured there is kept (exit code 4)."""


class MachineFailedError(MeasurementError):
    """Another machine does not go on with a run, or sends what cannot be (exit code 4)."""
