"""Errors that a person can mend: what was wrong, where, and what to do, in one readable line."""


class UserError(Exception):
    """The base of all errors that are raised for a person to read; commands print them as one line, exit status 2."""


class ConfigError(UserError, ValueError):
    """A configuration: the key, its value, what is allowed."""


class DataError(UserError, ValueError):
    """Data that cannot be had: what was looked for, where, and what to do."""


class RunError(UserError, ValueError):
    """A run directory that cannot be used as asked."""


class CheckpointError(UserError, ValueError):
    """A checkpoint that is missing, unreadable or of another shape."""


class ReportError(UserError, ValueError):
    """Runs that make no table as asked."""


class DeviceError(UserError, ValueError):
    """Devices or processes: the numbers that do not divide, or the process that cannot go on."""


class TrainingError(UserError, RuntimeError):
    """What stopped a run, and how to go on."""


class Stopped(UserError):
    """A signal that ended the work, whose number is `signal`: what was saved, and how to go on."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


def one_line(error):
    """An exception as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + "..."
