"""Why a job failed: the kinds, and which of them are worth another attempt."""

from enum import StrEnum


class ErrorKind(StrEnum):
    """The kinds of failure that users and machines may rely on; they change only with a changelog entry."""

    INVALID_REQUIREMENT = "invalid_requirement"
    NOT_FOUND = "not_found"
    NO_COMPATIBLE_WHEEL = "no_compatible_wheel"
    RESOLUTION_CONFLICT = "resolution_conflict"
    PYTHON_INCOMPATIBLE = "python_incompatible"
    AUTHENTICATION = "authentication"
    FORBIDDEN = "forbidden"
    TLS = "tls"
    HASH_MISMATCH = "hash_mismatch"
    BROKEN_WHEEL = "broken_wheel"
    NO_VISUALIZATIONS = "no_visualizations"
    INVALID_VISUALIZATION = "invalid_visualization"

    CONNECT_TIMEOUT = "connect_timeout"
    READ_TIMEOUT = "read_timeout"
    CONNECTION = "connection"
    PROXY = "proxy"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TRUNCATED = "truncated"
    STORAGE = "storage"
    DISK_FULL = "disk_full"
    WORKER_LOST = "worker_lost"

    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """Whether another attempt may end differently without anybody changing anything."""
        return self in _TRANSIENT

    @property
    def attempts(self) -> int | None:
        """How many attempts this kind is worth, where that is fewer than ``retry.maxAttempts``."""
        return 2 if self is ErrorKind.DEADLINE else None


_TRANSIENT = frozenset(
    {
        ErrorKind.CONNECT_TIMEOUT,
        ErrorKind.READ_TIMEOUT,
        ErrorKind.CONNECTION,
        ErrorKind.PROXY,
        ErrorKind.RATE_LIMITED,
        ErrorKind.SERVER_ERROR,
        ErrorKind.TRUNCATED,
        ErrorKind.STORAGE,
        ErrorKind.DISK_FULL,
        ErrorKind.WORKER_LOST,
        ErrorKind.DEADLINE,
        ErrorKind.INTERNAL,
    }
)
