"""Which entry decides each setting, and what it says."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from config import kinds
from config.entries import Entry
from config.names import Generation
from config.problems import Problem

MAX_SECRET_BYTES = 64 * 1024

Key = tuple[str, int | None]
"""A setting's field and the number of the index it belongs to."""


@dataclass(frozen=True)
class Choice:
    """The winning entries and their values."""

    entries: dict[Key, Entry]
    """Only those that say something: an empty value takes a setting back to its default."""
    empty: dict[Key, Entry]
    """The winning entries with an empty value."""
    values: dict[Key, Any]
    """Of the entries, those that could be read."""
    all_entries: Sequence[Entry]

    def entry(self, field: str, index: int | None = None) -> Entry | None:
        """Return the entry that sets a field, if there is one."""
        return self.entries.get((field, index))

    def value(self, field: str, index: int | None = None) -> Any:  # noqa: ANN401 - as many types as there are kinds
        """Return what a field was set to, or None."""
        return self.values.get((field, index))

    def first(self, index: int) -> Entry:
        """Return any entry of an index, by which to talk about it."""
        found = (entry for (_, number), entry in (self.entries | self.empty).items() if number == index)
        return min(found, key=lambda entry: entry.source.rank)

    @property
    def indexes(self) -> list[int]:
        """The numbers of the indexes that are configured, in order. One with an empty URL counts: it is a mistake."""
        numbers = {number for (_, number) in self.entries} | {
            number for (field, number) in self.empty if field == "indexes.url"
        }
        return sorted(number for number in numbers if number is not None)

    @property
    def generation(self) -> Generation:
        """Whose names are used for indexes; the agent's when there are none."""
        used = {entry.match.generation for entry in self.entries.values()}
        return Generation.CONNECTOR if Generation.CONNECTOR in used else Generation.AGENT


def choose(entries: Sequence[Entry]) -> tuple[Choice, list[Problem]]:
    """Let the highest source win for each setting, read the winners' values, and tell what cannot be."""
    problems = [*_contradictions(entries)]
    winners: dict[Key, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.source.rank):
        winners.setdefault((entry.match.setting.field, entry.match.index), entry)
    said = {key: entry for key, entry in winners.items() if entry.value.strip()}
    empty = {key: entry for key, entry in winners.items() if not entry.value.strip()}
    values = {}
    for key, entry in said.items():
        try:
            values[key] = _value(entry)
        except ValueError as error:
            problems.append(entry.problem(str(error)))
    return Choice(said, empty, values, entries), problems


def _contradictions(entries: Sequence[Entry]) -> Iterable[Problem]:
    seen: dict[tuple[Key, int], Entry] = {}
    for entry in entries:
        key = ((entry.match.setting.field, entry.match.index), entry.source.rank)
        first = seen.setdefault(key, entry)
        if first is not entry and _meaning(first) != _meaning(entry):
            place = "" if first.line is None else f" in line {first.line}"
            yield entry.problem(f"set a second time, with another value than {first.written}{place}; keep one of them")


def _meaning(entry: Entry) -> object:
    """Return what two spellings of one value have in common; of what cannot be read, the text."""
    if not entry.value.strip():
        return None
    try:
        return (_value(entry),)
    except ValueError:
        return (entry.value, entry.match.file)


def _value(entry: Entry) -> Any:  # noqa: ANN401 - as many types as there are kinds
    setting = entry.match.setting
    if entry.match.file:
        return setting.kind.parse(_file_content(entry.value))
    return setting.kind.parse(entry.value if setting.secret else entry.value.strip())


def _file_content(path: str) -> str:
    """Read a secret from its file, without the line break that editors leave at its end.

    The path stays out of the messages: the secret itself may have been written there by mistake.
    """
    try:
        with kinds.directory(path).open("rb") as stream:
            content = stream.read(MAX_SECRET_BYTES + 1)
        text = content.decode("utf-8-sig").rstrip("\r\n")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError:
        raise ValueError("names a file that is not UTF-8 text; write the secret to it as text") from None
    except (OSError, ValueError):  # ValueError: a control character in the path
        raise ValueError("names a file that cannot be read; check that it exists and its permissions") from None
    if not text or len(content) > MAX_SECRET_BYTES:
        raise ValueError("names a file that is empty or too large to be a secret; check what was written to it")
    return text
