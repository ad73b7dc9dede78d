"""The reference of all settings, made from the table that also reads them."""

from config.names import CONNECTOR_INDEX, SETTINGS, Setting, Style


def markdown() -> str:
    """Return a Markdown table with one row for each setting, and what holds for all of them."""
    rows = [
        "| setting | environment variable | kind | default | meaning |",
        "|---|---|---|---|---|",
        *map(_row, SETTINGS),
    ]
    return "\n".join([*rows, "", *_NOTES]) + "\n"


_NOTES = [
    "`{index}` is a whole number from 0; the order of the numbers is the order of priority. The Connector's names",
    f"`{CONNECTOR_INDEX}[{{index}}].uri` and the same leaves are understood too; with them there is no public index.",
    "As an argument a setting is written `--name=value`, as a system property `-Dname=value`. A secret marked with \\*",
    "can also stand in a file: append `_FILE` to the variable, or `File` to the name, and write the file's path.",
    "Durations: `500ms`, `30s`, `5m`, `2h`, `1d`, `PT1M30S`. Sizes: `1024`, `500MB` (10^6 each), `2GiB` (2^30 each).",
]


def _row(setting: Setting) -> str:
    star = r"\*" if setting.secret else ""
    default = f"`{setting.default}`" if setting.default else setting.default_note
    variable = setting.spelled(Style.ENVIRONMENT).replace("{INDEX}", "{index}")
    return f"| `{setting.name}` | `{variable}`{star} | {setting.kind.label} | {default} | {setting.meaning} |"
