"""The reference of all settings, made from the table that also reads them.

``python -m config.reference`` writes it into the documents, and with ``--check`` tells whether they are up to date.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from config.names import AGENT_INDEX, CONNECTOR_INDEX, SETTINGS, Setting, Style

BEGIN = "<!-- settings: made by `make docs` -->"
END = "<!-- end of settings -->"
DOCUMENTED = "use_only_configured"
"""Besides the settings of the indexes the one that users of the agent have had all along."""


def markdown() -> str:
    """Return a Markdown table with one row for each setting, and what holds for all of them."""
    rows = [
        "| setting | environment variable | kind | default | meaning |",
        "|---|---|---|---|---|",
        *map(_row, SETTINGS),
    ]
    return "\n".join([*rows, "", *_NOTES]) + "\n"


def summary() -> str:
    """Return a short table of the settings that users of the platform's agent have today."""
    chosen = [
        setting
        for setting in SETTINGS
        if setting.field == DOCUMENTED or (setting.name.startswith(AGENT_INDEX) and setting.field != _OURS_OF_AN_INDEX)
    ]
    rows = [f"| `{_variable(setting)}` | {_default(setting)} | {setting.meaning} |" for setting in chosen]
    return "\n".join(["| environment variable | default | meaning |", "|---|---|---|", *rows]) + "\n"


def updated(document: str, content: str) -> str:
    """Return a document with ``content`` between its two marks. Raises :class:`ValueError` when it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{content}\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Bring the documents of the project up to date, or return 1 with ``--check`` when one is not."""
    stale = []
    for path, content in ((Path("README.md"), summary()), (Path("docs/settings.md"), markdown())):
        document = path.read_text(encoding="utf-8")
        if (fresh := updated(document, content)) != document:
            stale.append(str(path))
            if "--check" not in arguments:
                path.write_text(fresh, encoding="utf-8")
    if stale and "--check" in arguments:
        sys.stderr.write(f"{' and '.join(stale)} do not show the settings as they are: run make docs\n")
        return 1
    return 0


_OURS_OF_AN_INDEX = "indexes.max_connections"
"""The one setting of an index that only vizfetch has."""

_NOTES = [
    "`{index}` is a whole number from 0; the order of the numbers is the order of priority. The Connector's names",
    f"`{CONNECTOR_INDEX}[{{index}}].uri` and the same leaves are understood too; with them there is no public index.",
    "As an argument a setting is written `--name=value`, as a system property `-Dname=value`. A secret marked with \\*",
    "can also stand in a file: append `_FILE` to the variable, or `File` to the name, and write the file's path.",
    "Durations: `500ms`, `30s`, `5m`, `2h`, `1d`, `PT1M30S`. Sizes: `1024`, `500MB` (10^6 each), `2GiB` (2^30 each).",
]


def _row(setting: Setting) -> str:
    star = r"\*" if setting.secret else ""
    variable = f"`{_variable(setting)}`{star}"
    return f"| `{setting.name}` | {variable} | {setting.kind.label} | {_default(setting)} | {setting.meaning} |"


def _variable(setting: Setting) -> str:
    return setting.spelled(Style.ENVIRONMENT).replace("{INDEX}", "{index}")


def _default(setting: Setting) -> str:
    return f"`{setting.default}`" if setting.default else setting.default_note


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
