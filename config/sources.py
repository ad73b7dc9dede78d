"""Where settings come from: arguments, system properties, the environment, a file, and defaults, in this order.

Each setting is decided by the highest source that names it; the settings of one index may come from several sources.
An empty value takes a setting back to its default and hides the lower sources. Everything is read once, by
:func:`read`, from what the caller passes in; nothing here looks at the process's own environment.

The agent's spellings are told in ``config.names``. With the agent's names the public index joins as the last source
unless ``useOnlyConfigured``; the Connector's names never add it.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from config import kinds
from config.choice import Choice, choose
from config.entries import Written, from_arguments, from_environment, split_arguments, understand
from config.names import CONFIG_VARIABLE, SETTINGS, Generation, Setting
from config.problems import Problem, SettingsError
from config.redis_url import from_parts
from config.rules import REDIS_PARTS, broken
from config.secrets import MASK, mask_url
from config.settings import IndexSettings, Proxy, Settings

__all__ = [
    "Effective",
    "Problem",
    "Reading",
    "SettingsError",
    "load",
    "read",
    "require_values",
    "split_arguments",
    "trace",
]

PUBLIC = "public"
"""The name of the public index."""
DEFAULT_SOURCE = "default"
_MACHINE = ("target.", "temporary_directory", "min_free_space_bytes", "cache.")


@dataclass(frozen=True)
class Effective:
    """One setting as it holds, and why."""

    name: str
    """Canonical, in the generation of names that is in use."""
    value: str
    """As it would be written; secrets masked; empty when unset."""
    source: str
    """As in :class:`config.problems.Problem`, or ``default``."""
    written: str | None = None
    """The name as the user wrote it."""
    line: int | None = None
    """In the settings file."""
    secret_file: Path | None = None
    """The file that the secret was read from."""


@dataclass(frozen=True)
class Reading:
    """The settings and the origin of each."""

    settings: Settings
    effective: tuple[Effective, ...]


def require_values(arguments: Sequence[str]) -> None:
    """Raise :class:`config.problems.SettingsError` when some of the agent's arguments are not written as they must be.

    To be asked when a command line makes no sense: what does not may be a value that stands apart from its name.
    """
    _, problems = understand(list(from_arguments(arguments)))
    if problems:
        raise SettingsError(problems)


def load(arguments: Sequence[str], environment: Mapping[str, str], *, file: Path | None = None) -> Settings:
    """Return the settings, as :func:`read` does."""
    return read(arguments, environment, file=file).settings


def trace(
    arguments: Sequence[str], environment: Mapping[str, str], *, file: Path | None = None
) -> tuple[Effective, ...]:
    """Return each setting with its origin, as :func:`read` does."""
    return read(arguments, environment, file=file).effective


def read(arguments: Sequence[str], environment: Mapping[str, str], *, file: Path | None = None) -> Reading:
    """Read all sources. ``file`` wins over the file that ``VIZFETCH_CONFIG`` names.

    Arguments that are not the agent's are ignored. Raises :class:`config.problems.SettingsError` with everything that
    is wrong. Files are read anew each time; nothing is kept between calls.
    """
    from_yaml, unreadable = _file(environment, file)
    written = [*from_arguments(arguments), *from_environment(environment), *from_yaml]
    entries, unknown = understand(written)
    choice, wrong = choose(entries)
    problems = [*unreadable, *unknown, *wrong, *broken(choice)]
    if problems:
        raise SettingsError(problems, _build(_of_the_machine(choice), environment))
    settings = _build(choice, environment)
    return Reading(settings, tuple(_effective(choice, settings)))


def _of_the_machine(choice: Choice) -> Choice:
    """Return what could be read of the settings about the machine: it can be looked at whatever else is wrong."""
    values = {key: value for key, value in choice.values.items() if key[0].startswith(_MACHINE)}
    return Choice({key: choice.entries[key] for key in values}, {}, values, ())


def _file(environment: Mapping[str, str], file: Path | None) -> tuple[list[Written], list[Problem]]:
    named = environment.get(CONFIG_VARIABLE, "")
    if file is None and not named:
        return [], []
    from config.files import from_file  # noqa: PLC0415 - most have no such file, and what reads it loads slowly

    if file is not None:
        return from_file(file, ("argument", "--config"))
    return from_file(Path(named), ("environment", CONFIG_VARIABLE))


def _build(choice: Choice, environment: Mapping[str, str]) -> Settings:
    """Put the values into the models. Fields left out keep the models' defaults."""
    data: dict[str, Any] = {"nickname": f"{socket.gethostname()}-{os.getpid()}"}
    for (field, index), value in choice.values.items():
        if index is None:
            _put(data, field, value)
    parts = {part: value for part in REDIS_PARTS if (value := data.get("redis", {}).pop(part, None)) is not None}
    if parts:
        data["redis"]["url"] = from_parts(**parts)
    if authorities := environment.get("REQUESTS_CA_BUNDLE") or environment.get("SSL_CERT_FILE"):
        _put(data, "redis.ca_bundle", Path(authorities))
        _put(data, "storage.ca_bundle", Path(authorities))
    indexes = [_build_index(choice, number) for number in choice.indexes]
    if choice.entry("cache.directory") is None:
        _put(data, "cache.directory", _own_cache(environment, data.get("temporary_directory")))
    only_configured = choice.generation is Generation.CONNECTOR or data.get("use_only_configured", False)
    if not only_configured:
        indexes.append(_public_index())
    return Settings(**data | {"indexes": tuple(indexes), "use_only_configured": only_configured})


def _put(data: dict[str, Any], field: str, value: object) -> None:
    group, _, leaf = field.rpartition(".")
    (data.setdefault(group, {}) if group else data)[leaf] = value


def _build_index(choice: Choice, number: int) -> IndexSettings:
    data: dict[str, Any] = {"name": f"pypi[{number}]", "prefix": f"{choice.generation.value}[{number}]"}
    for (field, index), value in choice.values.items():
        if index == number:
            _put(data, field.removeprefix("indexes."), value)
    if "proxy" in data:
        data["proxy"] = Proxy(**data["proxy"])
    return IndexSettings(**data)


def _own_cache(environment: Mapping[str, str], temporary_directory: Path | None) -> Path:
    """Return the cache that a user can write to without having set anything.

    By the XDG Base Directory Specification. The last resort is per user, since others write to the temporary directory
    as well.
    """
    if caches := _absolute(environment.get("XDG_CACHE_HOME", "")):
        return caches / "vizfetch"
    if home := _absolute(environment.get("HOME", "")):
        return home / ".cache" / "vizfetch"
    place = temporary_directory or Settings.model_fields["temporary_directory"].default
    return Path(place) / f"vizfetch-cache-{os.getuid()}"


def _absolute(text: str) -> Path | None:
    """Return a directory; None for relative ones, which that specification has ignored, and for nonsense.

    ``/`` is what containers name the home of a user who has none.
    """
    try:
        return kinds.directory(text) if text.startswith("/") and text.strip("/") else None
    except ValueError:
        return None


def _public_index() -> IndexSettings:
    """Return the default last source.

    Nobody asked for it by name, and many networks cannot reach it: a start must not fail for it, so its connectivity is
    not validated. A fetch that needs it tells when it cannot be reached.
    """
    # From the pinned pip: `pypi_simple`, which has the address too, brings a parser and costs every command 0.1 s.
    from pip._internal.models.index import PyPI  # noqa: PLC0415 - `--help` need not pay for it

    return IndexSettings(name=PUBLIC, url=f"{PyPI.simple_url}/", skip_validate_connectivity=True)


def _effective(choice: Choice, settings: Settings) -> list[Effective]:
    rows = [
        _row(choice, settings, setting, number)
        for setting in SETTINGS
        for number in (choice.indexes if setting.indexed else [None])
    ]
    if settings.indexes and settings.indexes[-1].name == PUBLIC:
        rows.append(Effective(PUBLIC, settings.indexes[-1].url, DEFAULT_SOURCE))
    return rows


def _row(choice: Choice, settings: Settings, setting: Setting, number: int | None) -> Effective:
    name = setting.dotted(number, choice.generation)
    entry = choice.entry(setting.field, number)
    if entry is None:
        return Effective(name, _default(choice, settings, setting), DEFAULT_SOURCE)
    text = setting.kind.write(choice.value(setting.field, number))
    if setting.secret:
        text = mask_url(text) if setting.kind is kinds.REDIS_URL else MASK
    secret_file = kinds.directory(entry.value) if entry.match.file else None
    return Effective(name, text, entry.source.label, entry.written, entry.line, secret_file)


def _default(choice: Choice, settings: Settings, setting: Setting) -> str:
    """Return what holds when nothing is written."""
    if setting.field == "redis.url" or setting.field.removeprefix("redis.") in REDIS_PARTS:
        by_parts = choice.entry("redis.host") is not None
        return setting.default if by_parts != (setting.field == "redis.url") else ""
    if setting.default_note:
        return str(attrgetter(setting.field)(settings))
    if setting.field == "use_only_configured":
        return kinds.BOOLEAN.write(settings.use_only_configured)
    return setting.default
