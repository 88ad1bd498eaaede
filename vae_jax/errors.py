"""Mistakes a person can mend: what was wrong, where, and what to do, in one line on stderr, and exit status 2."""


class Mistake(Exception):
    """The base of the errors that the modules raise for a person to read, but for RunError: rundir.py stands alone."""


class ConfigError(Mistake, ValueError):
    """One readable line: the field, its value, what is allowed."""


class DataError(Mistake, ValueError):
    """Data that cannot be had, in one line: what was looked for, where, and what to do."""


def one_line(error):
    """An exception as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + "..."


class RunError(ValueError):
    """A run directory that cannot be used as asked; the message is one readable line."""


class CheckpointError(Mistake, ValueError):
    """A checkpoint that is missing, unreadable or of another shape; the message is one readable line."""


class ReportError(Mistake, ValueError):
    """Runs that make no table as asked; one readable line."""


class DeviceError(Mistake, ValueError):
    """One readable line: the numbers that do not divide, or the process that cannot go on."""


class TrainingError(Mistake, RuntimeError):
    """One readable line: what stopped the run, and how to go on."""
