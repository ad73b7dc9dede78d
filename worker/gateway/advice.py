"""What a person can do about an index that fails, with the settings by the names users write."""

import re

from config.settings import IndexSettings
from jobs.errors import ErrorKind
from worker.gateway.errors import UpstreamError

_BY_KIND = {
    ErrorKind.AUTHENTICATION: (
        "Check {index}.username and {index}.password, or {index}.bearerToken; the index does not accept them."
    ),
    ErrorKind.FORBIDDEN: (
        "Check what the user of {index}.username or {index}.bearerToken may read there; some indexes say so "
        "of a wrong {index}.password too."
    ),
    ErrorKind.TLS: (
        "Have the index's authority trusted: install it in the system's store or name its file in "
        "REQUESTS_CA_BUNDLE. {index}.skipSsl=true turns verification off for this index."
    ),
    ErrorKind.PROXY: "Check {index}.proxy.host and {index}.proxy.port, and that the proxy lets this host through.",
    ErrorKind.CONNECT_TIMEOUT: "Check {index}.url and {index}.proxy.host; {index}.connectTimeout is the limit.",
    ErrorKind.READ_TIMEOUT: "The index is slow; {index}.readTimeout is the limit for one answer.",
    ErrorKind.CONNECTION: "Check {index}.url, and that the index can be reached from here.",
    ErrorKind.RATE_LIMITED: "The index asks for fewer requests; the job is tried again later.",
    ErrorKind.SERVER_ERROR: "Check {index}.url, and the index itself; the job is tried again later.",
    ErrorKind.TRUNCATED: "The index or something before it breaks connections; the job is tried again later.",
    ErrorKind.HASH_MISMATCH: "The file at the index is not the one its page describes: ask who runs the index.",
    ErrorKind.BROKEN_WHEEL: "Nothing older is taken in its place: ask who runs the index to replace or yank the file.",
    ErrorKind.DISK_FULL: (
        "Make room where moderne.agent.visualization.cache.directory is, or lower "
        "moderne.agent.visualization.cache.maxSize."
    ),
    ErrorKind.INTERNAL: "Check that moderne.agent.visualization.cache.directory can be written to.",
}
_PUBLIC = (
    "This is the default public index; moderne.agent.visualization.useOnlyConfigured=true does without it, "
    "moderne.agent.pypi[{index}].url names another."
)


def message(error: UpstreamError, index: IndexSettings, asked_for: str) -> str:
    """Say what happened, where, and what to do, by the names of settings that the user has. Holds no secret."""
    what = f"{asked_for} could not be fetched from {index.name}: {error.url} {error.reason}."
    if error.kind is ErrorKind.FORBIDDEN and error.status is None:
        return f"{what} Ask who runs the index why it leads there."
    return f"{what} {_advice(error.kind, index)}".strip()


def _advice(kind: ErrorKind, index: IndexSettings) -> str:
    advice = _BY_KIND.get(kind, "")
    if not index.name.startswith("pypi[") and (not advice or "{index}" in advice):
        return _PUBLIC
    return re.sub(r"\{index\}\.(\w+(?:\.\w+)?)", lambda found: index.setting(found[1]), advice)
