"""The settings file: YAML, with the names nested, dotted, or both.

Scalars are taken as the text that stands in the file, never converted: a password ``0123`` or ``yes`` stays what it is.
Parser messages quote the text, so they are replaced by the line alone.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from config.entries import Source, Written, settings_file
from config.names import is_group, match_dotted
from config.problems import Problem

MAX_BYTES = 2**20
MAX_ENTRIES = 10_000
"""Aliases can multiply a small file without end."""
MAX_DEPTH = 20


class _RefusedError(Exception):
    """The file is YAML, yet not of a form that settings have."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def from_file(path: Path, named_by: tuple[str, str]) -> tuple[list[Written], list[Problem]]:
    """Read a settings file.

    ``named_by`` is the source and name of the setting that named the file, for when it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return [], [Problem(*named_by, "the settings file cannot be read; check that it exists and its permissions")]
    if len(content) > MAX_BYTES:
        return [], [Problem(*named_by, "the settings file is larger than 1 MiB; name a file with settings only")]
    return _read(content, path.name)


def _read(content: bytes, label: str) -> tuple[list[Written], list[Problem]]:
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
        return (list(_Walk(settings_file(label)).entries(root)) if root else []), []
    except _RefusedError as error:
        return [], [Problem(label, "YAML", error.message, error.line)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return [], [Problem(label, "YAML", _NOT_YAML, mark.line + 1 if mark else None)]
    except (yaml.YAMLError, ValueError, OverflowError):  # the last two: escapes of characters that do not exist
        return [], [Problem(label, "YAML", _NOT_YAML)]
    except RecursionError:
        return [], [Problem(label, "YAML", _TOO_MUCH)]


_NOT_YAML = "not valid YAML; check indentation, quotes and special characters"
_TOO_MUCH = "nested too deeply or too large for settings; check anchors and aliases"


class _Walk:
    """Flattens a tree of nodes into dotted names."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._visited = 0

    def entries(self, root: yaml.Node) -> Iterator[Written]:
        if isinstance(root, yaml.MappingNode):
            yield from self._mapping(root, "", 0)
        elif not _is_null(root):
            raise _RefusedError("must begin with names of settings, not with a value or a list", _line(root))

    def _visit(self, node: yaml.Node, depth: int) -> None:
        self._visited += 1
        if self._visited > MAX_ENTRIES or depth > MAX_DEPTH:
            raise _RefusedError(_TOO_MUCH, _line(node))

    def _node(self, node: yaml.Node, name: str, depth: int) -> Iterator[Written]:
        self._visit(node, depth)
        match = match_dotted(name)
        if _is_null(node) and not match and is_group(name):
            return  # a heading whose settings are all commented out
        if isinstance(node, yaml.ScalarNode):
            yield self._written(name, "" if _is_null(node) else node.value, node)
        elif match:
            names = match.setting.field == "sdists" and _is_list_of_scalars(node)
            yield self._written(name, ",".join(item.value for item in node.value) if names else None, node)
        elif isinstance(node, yaml.SequenceNode) and is_group(name) and not is_group(f"{name}[0]"):
            yield self._written(name, None, node)
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                yield from self._node(item, f"{name}[{number}]", depth + 1)
        elif isinstance(node, yaml.MappingNode):
            yield from self._mapping(node, f"{name}.", depth + 1)

    def _mapping(self, node: yaml.MappingNode, prefix: str, depth: int) -> Iterator[Written]:
        known = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not _is_merge(key)}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError("a name of a setting must be plain text; this one is a list or a group", _line(key))
            if _is_merge(key):
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    yield from self._merged(merged, prefix, depth + 1, known)
            else:
                # A number in brackets, as Spring writes the names of a list's members, has no dot before it.
                place = prefix.removesuffix(".") if re.fullmatch(r"\[[0-9]+\]", key.value) else prefix
                yield from self._node(value, f"{place}{key.value}", depth)

    def _merged(self, node: yaml.Node, prefix: str, depth: int, known: set[str]) -> Iterator[Written]:
        """Yield what ``<<`` brings in: keys of the mapping itself win, then earlier mappings (YAML's merge type)."""
        self._visit(node, depth)
        if not isinstance(node, yaml.MappingNode):
            raise _RefusedError("'<<' takes a mapping or a list of mappings", _line(node))
        kept = [(key, value) for key, value in node.value if _is_merge(key) or str(key.value) not in known]
        yield from self._mapping(yaml.MappingNode(node.tag, kept, node.start_mark), prefix, depth)
        known.update(str(key.value) for key, _ in kept)

    def _written(self, name: str, value: str | None, node: yaml.Node) -> Written:
        return Written(self._source, name, name, value, _line(node))


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _is_merge(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:merge")


def _is_list_of_scalars(node: yaml.Node) -> bool:
    return isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value)


def _line(node: yaml.Node) -> int | None:
    return node.start_mark.line + 1 if node.start_mark else None
