"""The settings under the Connector's names, as a file that reads back to the same settings.

The Connector never adds the public index, so the public index becomes one that is configured, at the end, and
``useOnlyConfigured`` disappears: the indexes and their order stay the same.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from config.names import BY_FIELD, SETTINGS, TMPDIR_VARIABLE, Generation, Setting, Style, match_dotted
from config.redis_url import to_parts
from config.rules import REDIS_PARTS
from config.secrets import mask_url
from config.settings import IndexSettings, Settings
from config.sources import DEFAULT_SOURCE, Effective

_OF_THE_PROCESS = {"nickname", "temporary_directory", "cache.directory"}

_Place = tuple[str, int | None]
"""A setting's field and the number of its index."""


def migrate(settings: Settings, trace: Sequence[Effective] = (), *, show_secrets: bool = False) -> str:
    """Return YAML that ``config.sources.load(file=…)`` reads back to the same settings.

    ``trace`` is that of the same reading: with it, a secret that came from a file is named by its file, and what is
    only a default of this process (its nickname, its directories) is left out. Other secrets stand in the text
    only with ``show_secrets``; without, the head of the file lists the environment variables to set in their place.
    """
    return _Migration(settings, trace, show_secrets=show_secrets).text()


def as_json(document: object) -> str:
    """Write a document as JSON that YAML reads alike: with escapes for what only JSON takes as it stands."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but text with Unicode's own line breaks is escaped: read back they would be others, or spaces."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


class _Migration:
    def __init__(self, settings: Settings, trace: Sequence[Effective], *, show_secrets: bool) -> None:
        self._settings = settings
        self._show_secrets = show_secrets
        self._hidden: list[str] = []
        self._files: dict[_Place, Path] = {}
        self._ambient: set[str] = set()
        for row in trace:
            self._remember(row)

    def _remember(self, row: Effective) -> None:
        match = match_dotted(row.name)
        if match and row.secret_file:
            self._files[match.setting.field, match.index] = row.secret_file
        if match and (row.source == DEFAULT_SOURCE or row.written == TMPDIR_VARIABLE):
            self._ambient.add(match.setting.field)

    def text(self) -> str:
        """Return the whole file."""
        tree: dict[str, Any] = {}
        for name, value in [*self._index_lines(), *self._other_lines()]:
            _put(tree, name, value)
        options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 10_000}
        body = yaml.dump(tree, Dumper=_Dumper, **options) if tree else ""
        return self._head() + body

    def _head(self) -> str:
        if not self._hidden:
            return ""
        lines = [
            "Secrets are not shown. Set them in the environment, or name files that hold them with _FILE appended:"
        ]
        return "".join(f"# {line}\n" for line in [*lines, *(f"  {name}" for name in self._hidden)])

    def _index_lines(self) -> Iterator[tuple[str, Any]]:
        for number, index in enumerate(self._settings.indexes):
            for setting in SETTINGS:
                if setting.indexed:
                    yield from self._line(setting, number, _value(index, setting.field.removeprefix("indexes.")))

    def _other_lines(self) -> Iterator[tuple[str, Any]]:
        for setting in SETTINGS:
            if setting.field == "redis.url":
                yield from self._redis(setting)
            elif setting.field == "redis.prefix":
                yield from self._line(setting, None, self._settings.redis.prefix)
            elif (
                not setting.indexed
                and setting.field != "use_only_configured"
                and not setting.field.startswith("redis.")
            ):
                yield from self._line(setting, None, _value(self._settings, setting.field))

    def _redis(self, setting: Setting) -> Iterator[tuple[str, Any]]:
        """Write the URL if it may be shown or stands in a file, else its parts with the password apart."""
        url = self._settings.redis.url.get_secret_value()
        parts = to_parts(url)
        in_parts = ("redis.password", None) in self._files or not self._show_secrets
        if mask_url(url) == url:
            yield from [(setting.name, url)] if url != setting.default else []
        elif ("redis.url", None) in self._files or not parts or not in_parts:
            yield from self._line(setting, None, url)
        else:
            for part in REDIS_PARTS:
                yield from self._line(BY_FIELD[f"redis.{part}"], None, getattr(parts, part))

    def _line(self, setting: Setting, index: int | None, value: object) -> Iterator[tuple[str, Any]]:
        if value is None or value == _default(setting) or setting.field in _OF_THE_PROCESS & self._ambient:
            return
        name = setting.dotted(index, Generation.CONNECTOR)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if file := self._files.get((setting.field, index)):
            yield f"{name}File", str(file)
        elif setting.secret and not self._show_secrets:
            self._hidden.append(setting.spelled(Style.ENVIRONMENT, index, Generation.CONNECTOR))
        else:
            yield name, text if setting.kind.native else setting.kind.write(text)


def _value(owner: Settings | IndexSettings, field: str) -> Any:  # noqa: ANN401 - as many types as there are kinds
    value: Any = owner
    for name in field.split("."):
        value = None if value is None else getattr(value, name)
    return value


def _default(setting: Setting) -> object:
    return setting.kind.parse(setting.default) if setting.default else None


def _put(tree: dict[str, Any], name: str, value: object) -> None:
    """Put a value under its dotted name, with a list where the name has an index."""
    place: Any = tree
    *groups, leaf = name.split(".")
    for group in groups:
        key, _, number = group.partition("[")
        place = place.setdefault(key, [] if number else {})
        if number:
            if len(place) <= int(number.rstrip("]")):
                place.append({})
            place = place[-1]
    place[leaf] = value
