"""Whether Redis can be used: reached, entered, and written to by scripts under our prefix."""

import re
import secrets
import socket
import ssl

from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from config.secrets import mask_url
from config.settings import RedisSettings
from jobs.connection import ANSWER_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, connect, said, tls_options
from worker.background import caused_by
from worker.findings import Finding, holds, unreachable, wrong

LIMIT_SECONDS = CONNECT_TIMEOUT_SECONDS + ANSWER_TIMEOUT_SECONDS

_SUBJECT = "Redis"
_URL = "moderne.agent.visualization.redis.url"
_PARTS = "moderne.agent.visualization.redis.host and its siblings"
_PROBE = "redis.call('SET', ARGV[1], 'check', 'PX', 1000) return redis.call('DEL', ARGV[1])"


def look_at_redis(settings: RedisSettings) -> Finding:
    """Ask for a sign of life, then have a script write a key that is gone at once."""
    where = mask_url(settings.url.get_secret_value())
    if trouble := _unusable_files(settings):
        advice = f"Check the files (PEM) that {_URL} names behind '?', or REQUESTS_CA_BUNDLE or SSL_CERT_FILE."
        return wrong(_SUBJECT, f"{where}: {trouble}", advice, step="TLS")
    with connect(settings) as redis:
        redis.set_retry(Retry(NoBackoff(), 0))
        try:
            redis.ping()
        except exceptions.RedisError as error:
            return _not_entered(where, error)
        try:
            redis.eval(_PROBE, 0, f"{settings.prefix}:check:{secrets.token_hex(8)}")
        except exceptions.RedisError as error:
            return _not_written(where, settings.prefix, error)
        return holds(_SUBJECT, f"{where} can be written{_version(redis)}")


def _unusable_files(settings: RedisSettings) -> str:
    """Tell which file for TLS cannot be used, and why. redis-py finds out late, and takes it for a lost connection."""
    options, context = tls_options(settings), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities, certificate, key = (options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile"))
    used = authorities
    try:
        if authorities:
            context.load_verify_locations(authorities)
        if certificate:
            used = " with ".join(filter(None, (certificate, key)))
            # Without the word that opens a key, which nobody can set: OpenSSL would ask the terminal for it.
            context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = str((error.strerror if isinstance(error, OSError) else None) or error)
        return f"{used} cannot be used ({reason.partition(' (_ssl.c')[0]})"
    return ""


def _version(redis: Redis) -> str:
    """Return its version where it may be asked for."""
    try:
        found = redis.info("server")
    except exceptions.RedisError:
        return ""
    assert isinstance(found, dict)  # noqa: S101 - the client is not an asynchronous one
    name = "Valkey" if "valkey_version" in found else "Redis"
    return f" ({name} {found.get('valkey_version') or found.get('redis_version', '')})"


def _not_entered(where: str, error: exceptions.RedisError) -> Finding:
    told = _told(error)
    if isinstance(error, exceptions.AuthenticationError) or "NOAUTH" in str(error):
        advice = f"Check the user and the password in {_URL}, or {_PARTS}."
        return wrong(_SUBJECT, f"{where} does not accept the credentials: {told}", advice, step="credentials")
    if isinstance(error, exceptions.BusyLoadingError):
        return unreachable(_SUBJECT, f"{where} is still loading its data", "Start again in a moment.", step="answer")
    if isinstance(error, exceptions.ResponseError):
        return wrong(_SUBJECT, f"{where} refuses: {told}", f"Check {_URL}, or {_PARTS}.", step="answer")
    return _not_reached(where, error, told)


def _not_reached(where: str, error: exceptions.RedisError, told: str) -> Finding:
    if isinstance(error, MasterNotFoundError):
        advice = f"Check the Sentinels' addresses and the service's name in {_URL}, and that the Sentinels run."
        return unreachable(_SUBJECT, f"{where}: {told}, or no Sentinel answers", advice, step="connection")
    if caused_by(error, socket.gaierror):
        return unreachable(_SUBJECT, f"{where}: the host name is not known", f"Check {_URL}.", step="name")
    if caused_by(error, ssl.SSLError):
        advice = f"Write redis:// in {_URL} if Redis speaks no TLS; else have its authority trusted by the system."
        return unreachable(_SUBJECT, f"{where}: {told}", advice, step="TLS")
    advice = f"Check {_URL}, or {_PARTS}, and that Redis runs; if it speaks TLS, the URL begins with rediss://."
    return unreachable(_SUBJECT, f"{where}: {told}", advice, step="connection")


def _not_written(where: str, prefix: str, error: exceptions.RedisError) -> Finding:
    told = _told(error)
    if isinstance(error, exceptions.NoPermissionError):
        advice = f"Let the user in {_URL} run all commands and scripts on keys that begin with '{prefix}:'."
        return wrong(_SUBJECT, f"{where} does not permit what is needed: {told}", advice, step="write")
    if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in str(error):
        return wrong(_SUBJECT, f"{where} is a read-only replica", f"Name the primary in {_URL}.", step="write")
    advice = "Look at the server's own log, and at its memory and disk."
    return unreachable(_SUBJECT, f"{where} cannot be written: {told}", advice, step="write")


def _told(error: exceptions.RedisError) -> str:
    """Return the error's text without its number and its address, which stand before it."""
    text = said(error).strip().rstrip(".")
    return re.sub(r"^(Error -?\d+ connecting to \S+\. |\[Errno -?\d+\] )", "", text)
