"""Whatever is written, reading gives settings or a list of problems, and no secret is in the text."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from config.migration import migrate
from config.names import SETTINGS, Generation, Style
from config.secrets import mask_url
from config.settings import Settings
from config.sources import Reading, SettingsError, read, split_arguments

SECRET = "pl4nted-s3cret"
WORDS = (
    "|true|FALSE| |30s|PT1M|0s|8080|2GiB|never|s3://bucket|file:///x|proxy|3.11|a,b|/x|https://a.b/simple|http://[::1"
)
SECRETS = [
    SECRET,
    f"https://u:{SECRET}@a/s",
    f"redis://:{SECRET}@h",
    f"redis://:{SECRET}@h:x",
    f"{SECRET}\n",
    f"a {SECRET}",
]
VALUES = st.sampled_from([*WORDS.split("|"), *SECRETS]) | st.text(st.characters(codec=None))


def spelled(style: Style) -> st.SearchStrategy[str]:
    """Names that exist, in one style, and names close to them."""
    exact = st.builds(
        lambda setting, index, generation: setting.spelled(style, index if setting.indexed else None, generation),
        st.sampled_from(SETTINGS),
        st.sampled_from([0, 1, 2, 999_999]),
        st.sampled_from(list(Generation)),
    )
    ends = ["_FILE", "File", "X", ".x", "[0]", f".{SECRET}", f":{SECRET}", f" {SECRET}", "\udc80", "\u017f"]
    near = st.builds(lambda name, end: name + end, exact, st.sampled_from(ends) | st.text(max_size=3))
    # Names cut anywhere, but not inside the secret: nobody could tell it from a name.
    cut = st.builds(lambda name, length: name[:length], exact, st.integers(5, 60))
    return exact | near | cut


NAMES = st.text().filter(lambda name: SECRET not in name)
AMBIENT = st.sampled_from(["TMPDIR", "HOME", "XDG_CACHE_HOME"])
ENVIRONMENTS = st.dictionaries(spelled(Style.ENVIRONMENT) | spelled(Style.FILE) | NAMES | AMBIENT, VALUES)
ARGUMENTS = st.lists(
    st.one_of(
        st.builds("{}={}".format, spelled(Style.ARGUMENT) | spelled(Style.SYSTEM_PROPERTY), VALUES),
        spelled(Style.ARGUMENT),
        st.just("-Djava.io.tmpdir=\0"),
        NAMES,
    )
)


def outcome(arguments: Sequence[str], environment: Mapping[str, str], file: Path | None) -> Reading | SettingsError:
    try:
        return read(arguments, environment, file=file)
    except SettingsError as error:
        return error


def check(arguments: Sequence[str], environment: Mapping[str, str], file: Path | None = None) -> None:
    """Read, and look for the secret in everything that may be shown."""
    result = outcome(arguments, environment, file)
    if isinstance(result, SettingsError):
        assert result.problems
        assert SECRET not in str(result) + repr(result)
        assert result.__cause__ is None
        str(result).encode()
        return
    rows = [row for row in result.effective if row.value == "***" or "redis.url" in row.name]
    assert SECRET not in repr(rows)
    if not holds_secret_openly(result.settings):
        assert SECRET not in migrate(result.settings, result.effective) + repr(result.settings)


def holds_secret_openly(settings: Settings) -> bool:
    """Whether the secret was written where no secret belongs and the value is allowed, such as a nickname."""
    open_values = settings.model_dump(exclude={"redis"}, mode="python")
    return SECRET in repr(open_values) + settings.redis.prefix + mask_url(settings.redis.url.get_secret_value())


@given(ENVIRONMENTS)
def test_any_environment(environment: dict[str, str]) -> None:
    check([], environment)


@given(ARGUMENTS)
def test_any_arguments(arguments: list[str]) -> None:
    ours, rest = split_arguments(arguments)
    left = Counter(arguments) - Counter(ours + rest)
    assert not Counter(ours + rest) - Counter(arguments)
    assert sum(left.values()) <= sum("=" not in item for item in ours)
    check(arguments, {})


@given(ARGUMENTS, ENVIRONMENTS)
def test_any_mixture(arguments: list[str], environment: dict[str, str]) -> None:
    check(arguments, environment)


def with_file(content: bytes, examine: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "vizfetch.yml"
        path.write_bytes(content)
        examine(path)


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.from_regex(r"[a-z:\[\]{}&*!|>'\"%@`,?# \n<-]*", fullmatch=True).map(str.encode)
)
def test_any_bytes_as_a_file(content: bytes) -> None:
    with_file(content, lambda path: check([], {}, path))


@given(spelled(Style.FILE), st.dictionaries(spelled(Style.FILE), VALUES, max_size=4))
def test_any_names_in_a_file(name: str, others: dict[str, str]) -> None:
    pairs = {name: SECRET, **others}
    lines = [f"{quoted(key)}: {quoted(value)}\n" for key, value in pairs.items()]
    with_file("".join(lines).encode(errors="replace"), lambda path: check([], {}, path))


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
