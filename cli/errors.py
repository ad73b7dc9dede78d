"""What users are told when a command cannot go on, and the exit code for it."""

import errno

from cli.output import print_error

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_CONFIG = 78


class MachineStopped(Exception):
    """Something that the one-machine mode runs has ended by itself."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def explain(error: Exception) -> int:
    """Print what went wrong and return the exit code for it."""
    code = _foreseen(error)
    if code is None:
        return _crash(error)
    for line in _words(error).splitlines():
        print_error(line)
    return code


def _foreseen(error: Exception) -> int | None:
    """Return the exit code for an error that users can do something about."""
    from bundles.errors import BundleError, StorageError
    from config.problems import SettingsError
    from jobs.connection import refuses_us
    from jobs.store import StatusUnavailable, UnknownJob
    from scheduler.manifest import InvalidManifest
    from worker.errors import Unfit
    from worker.findings import Verdict
    from worker.gateway.errors import GatewayRefused

    code: int | None = None
    match error:
        case SettingsError() | GatewayRefused():
            code = EXIT_CONFIG
        case Unfit():
            code = EXIT_CONFIG if error.verdict is Verdict.WRONG else EXIT_UNAVAILABLE
        case StatusUnavailable():
            code = EXIT_CONFIG if refuses_us(error) else EXIT_UNAVAILABLE
        case StorageError():
            code = EXIT_UNAVAILABLE
        case InvalidManifest() | UnknownJob():
            code = EXIT_USAGE
        case MachineStopped():
            code = error.exit_code
        case BundleError():
            code = EXIT_FAILED
        case OSError() if error.filename is not None or error.errno == errno.ENOSPC:
            # A path that the user named: something in its way, or a full disk.
            code = EXIT_FAILED
    return code


def _words(error: Exception) -> str:
    from jobs.connection import refuses_us
    from jobs.losses import said
    from jobs.store import StatusUnavailable, UnknownJob

    match error:
        case StatusUnavailable() if refuses_us(error):
            return (
                f"{error}. Check the user and the password in moderne.agent.visualization.redis.url, or "
                "redis.username and redis.password, and what they may do."
            )
        case StatusUnavailable():
            return f"{error} Is moderne.agent.visualization.redis.url right, and does Redis run?"
        case UnknownJob():
            told = f"there is no batch or job {error.args[0]}, or it is older than the history that is kept"
            return f"{told}. {said(error.lost_at)}" if error.lost_at else told
        case OSError():
            return f"{error.filename or 'a file or the output'}: {error.strerror}"
    return str(error)


def _crash(error: Exception) -> int:
    """Report an error that nobody foresaw: where it happened, and without any values, which might be secret."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "an unknown place"
    print_error(f"unexpected {type(error).__name__} at {place}: this is a defect of vizfetch; please report it")
    return EXIT_FAILED
