"""Every setting there is, in one table, and how the spellings that users have lead to it.

The table drives reading, the advice for unknown names, the samples' test, ``vizfetch config`` and the reference.

Spellings follow Spring Boot's relaxed binding: in dotted names each segment is compared without case, dashes and
underscores, and an index is ``[0]`` or ``.0``; environment variables are upper case with underscores for dots, a
camelCase segment flat (``SKIPSSL``) or split (``SKIP_SSL``). Two generations of names exist: the agent's
``moderne.agent.pypi[0].url`` and the Connector's ``moderne.recipe.marketplace.repositories.pypi[0].uri``.
"""

import difflib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

from config import kinds
from config.kinds import Kind

AGENT_INDEX = "moderne.agent.pypi"
CONNECTOR_INDEX = "moderne.recipe.marketplace.repositories.pypi"
OURS = "moderne.agent.visualization"
TMPDIR_PROPERTY = "java.io.tmpdir"
"""The Java property by which users name the temporary directory today; known as a system property only."""
TMPDIR_VARIABLE = "TMPDIR"
"""What the system says about temporary directories (POSIX): the last source before the default."""
CONFIG_VARIABLE = "VIZFETCH_CONFIG"
"""The environment variable that names the settings file."""


class Generation(Enum):
    """Whose names for the indexes."""

    AGENT = AGENT_INDEX
    CONNECTOR = CONNECTOR_INDEX


class Style(Enum):
    """Where a name is written, and so how it looks."""

    ARGUMENT = "argument"
    SYSTEM_PROPERTY = "system property"
    ENVIRONMENT = "environment"
    FILE = "file"

    @property
    def prefix(self) -> str:
        """What stands before the dotted name."""
        return {Style.ARGUMENT: "--", Style.SYSTEM_PROPERTY: "-D"}.get(self, "")


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    """Canonical; ``{index}`` stands for the number of an index."""
    field: str
    """Its place in :class:`config.settings.Settings`; the parts of ``redis.url`` have places of their own."""
    kind: Kind
    default: str
    """As the kind writes it; empty when there is none."""
    meaning: str
    secret: bool = False
    """Never shown; also read from the file that the name with ``File`` (``_FILE``) appended points at."""
    default_note: str = ""
    """Told in place of a default that is only known when a process starts."""

    @property
    def indexed(self) -> bool:
        """Whether it belongs to one of several package indexes."""
        return "{index}" in self.name

    def dotted(self, index: int | None = None, generation: Generation = Generation.AGENT) -> str:
        """Return the canonical name, for one index, in one generation of names."""
        name = self.name if index is None else self.name.replace("{index}", str(index))
        if not self.indexed or generation is Generation.AGENT:
            return name
        return _CONNECTOR_LEAF.sub(".uri", CONNECTOR_INDEX + name.removeprefix(AGENT_INDEX))

    def spelled(self, style: Style, index: int | None = None, generation: Generation = Generation.AGENT) -> str:
        """Return the name as it would be written in a source of this style."""
        dotted = self.dotted(index, generation)
        if style is Style.ENVIRONMENT:
            return re.sub(r"[.\[\]]+", "_", dotted).upper()
        return style.prefix + dotted


_CONNECTOR_LEAF = re.compile(r"(?<=\])\.url$")


def _index(leaf: str, kind: Kind, default: str, meaning: str, *, secret: bool = False) -> Setting:
    field = "indexes." + re.sub(r"(?<!^)([A-Z])", lambda found: f"_{found[1].lower()}", leaf)
    if leaf.endswith("Timeout"):
        field += "_seconds"
    return Setting(f"{AGENT_INDEX}[{{index}}].{leaf}", field, kind, default, meaning, secret)


def _own(
    leaf: str, field: str, kind: Kind, default: str, meaning: str, *, secret: bool = False, default_note: str = ""
) -> Setting:
    return Setting(f"{OURS}.{leaf}", field, kind, default, meaning, secret, default_note)


_LIMIT = kinds.duration("10ms", "365d")
"""For an index, which may be asked by a worker far away; less than the lower bound never sufficed for anybody."""
_PAUSE = kinds.duration("0s", "1d")

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "moderne.agent.nickname",
        "nickname",
        kinds.TEXT,
        "",
        "The name of this instance in status and logs; unique for each instance.",
        default_note="host name and process id",
    ),
    _own(
        "useOnlyConfigured",
        "use_only_configured",
        kinds.BOOLEAN,
        "false",
        "Use only the indexes configured here; when false, the public index is a last source.",
    ),
    _index("url", kinds.HTTP_URL, "", "Root of the simple repository API of the index. Required."),
    _index("username", kinds.USERNAME, "", "For basic auth; together with the password."),
    _index("password", kinds.TEXT, "", "For basic auth.", secret=True),
    _index("bearerToken", kinds.TOKEN, "", "Bearer token; in place of basic auth.", secret=True),
    _index("skipSsl", kinds.BOOLEAN, "false", "Do not verify the index's TLS certificate."),
    _index("skipValidateConnectivity", kinds.BOOLEAN, "false", "Do not ask the index for anything at start."),
    _index("proxy.host", kinds.HOST, "", "HTTP proxy for this index alone; together with its port."),
    _index("proxy.port", kinds.PORT, "", "The proxy's port."),
    _index("connectTimeout", _LIMIT, "30s", "Until the connection stands and the first data is received."),
    _index("readTimeout", _LIMIT, "60s", "For reading the response body."),
    _index(
        "maxConnections",
        kinds.count(1, 1000),
        "",
        "Requests to the index at once, of all workers together; empty: no limit.",
    ),
    _own(
        "redis.url",
        "redis.url",
        kinds.REDIS_URL,
        "redis://127.0.0.1:6379/0",
        "Where status lives: redis://, rediss:// or sentinel://. In place of redis.host and its siblings.",
        secret=True,
    ),
    _own("redis.host", "redis.host", kinds.HOST, "", "Redis by its parts: the host."),
    _own("redis.port", "redis.port", kinds.PORT, "6379", "The port."),
    _own("redis.username", "redis.username", kinds.TEXT, "", "The user of Redis' access control lists."),
    _own("redis.password", "redis.password", kinds.TEXT, "", "The password.", secret=True),
    _own("redis.ssl", "redis.ssl", kinds.BOOLEAN, "false", "Speak TLS with Redis."),
    _own("redis.database", "redis.database", kinds.DATABASE, "0", "The number of the database."),
    _own(
        "redis.prefix",
        "redis.prefix",
        kinds.KEY_PREFIX,
        "vizfetch",
        "What the names of all keys begin with, so that several deployments may share one Redis.",
    ),
    _own(
        "storage.uri",
        "storage.uri",
        kinds.STORAGE_URI,
        "file:///var/lib/vizfetch/bundles",
        "Where bundles are published: file:///directory or s3://bucket/prefix.",
    ),
    _own("storage.endpointUrl", "storage.endpoint_url", kinds.ENDPOINT_URL, "", "An S3 service that is not Amazon's."),
    _own("storage.region", "storage.region", kinds.TEXT, "", "The bucket's region."),
    _own(
        "storage.accessKey",
        "storage.access_key",
        kinds.TEXT,
        "",
        "S3 access key; without keys and profile, the instance's role.",
        secret=True,
    ),
    _own("storage.secretKey", "storage.secret_key", kinds.TEXT, "", "S3 secret key.", secret=True),
    _own("storage.profile", "storage.profile", kinds.TEXT, "", "A profile of the AWS configuration, in place of keys."),
    _own("storage.skipSsl", "storage.skip_ssl", kinds.BOOLEAN, "false", "Do not verify the store's TLS certificate."),
    _own("target.python", "target.python", kinds.PYTHON, "3.11", "Python where bundles will be installed."),
    _own("target.glibc", "target.glibc", kinds.GLIBC, "2.35", "glibc where bundles will be installed."),
    _own("target.architecture", "target.architecture", kinds.ARCHITECTURE, "x86_64", "Processor of that place."),
    _own(
        "sdists",
        "sdists",
        kinds.SDISTS,
        "never",
        "Build packages that exist as source only: never, allow, or the names of projects that may be built.",
    ),
    _own(
        "minPackageAge",
        "min_package_age_seconds",
        kinds.duration("0s", "365d"),
        "0s",
        "Files uploaded more recently than this are invisible, for example 3d; 0s: all are visible.",
    ),
    _own(
        "minPackageAgeUnknown",
        "min_package_age_unknown",
        kinds.UNKNOWN_AGE,
        "refuse",
        "With minPackageAge, trust or refuse files whose index does not tell when they were uploaded.",
    ),
    _own("requireSpecs", "require_specs", kinds.BOOLEAN, "true", "Refuse packages without visualizations."),
    _own(
        "verify",
        "verify",
        kinds.VERIFY,
        "check",
        "How a bundle is proved before it is published: check its files, or also install and import the package.",
    ),
    _own(
        "temporaryDirectory",
        "temporary_directory",
        kinds.DIRECTORY,
        "/tmp",  # noqa: S108 - the default users expect; tasks make private directories below it
        "Where tasks work; writable and executable. Also -Djava.io.tmpdir= and, after the file, TMPDIR.",
    ),
    _own("minFreeSpace", "min_free_space_bytes", kinds.SIZE, "2GiB", "Free space that must be there at start."),
    _own(
        "cache.directory",
        "cache.directory",
        kinds.DIRECTORY,
        "",
        "The gateway's cache, shared by all tasks of this user's workers.",
        default_note="`$XDG_CACHE_HOME/vizfetch`, else `~/.cache/vizfetch`",
    ),
    _own("cache.maxSize", "cache.max_size_bytes", kinds.CACHE_SIZE, "10GiB", "How large the cache may grow."),
    _own(
        "cache.pageTtl",
        "cache.page_ttl_seconds",
        kinds.duration("0s", "30d"),
        "10m",
        "How long an index page is fresh; 0s: never.",
    ),
    _own("concurrency", "concurrency", kinds.count(1, 256), "2", "Jobs that one worker fetches at once."),
    _own(
        "fetchTimeout",
        "fetch_timeout_seconds",
        kinds.duration("1s", "1d"),
        "15m",
        "The longest that one attempt may take.",
    ),
    _own("retry.maxAttempts", "retry.max_attempts", kinds.count(1, 100), "5", "Attempts until a job has failed."),
    _own("retry.minBackoff", "retry.min_backoff_seconds", _PAUSE, "2s", "The first pause between attempts."),
    _own("retry.maxBackoff", "retry.max_backoff_seconds", _PAUSE, "5m", "The longest pause."),
    _own(
        "lease",
        "lease_seconds",
        kinds.duration("1s", "1h"),
        "10s",
        "A worker silent for this long has lost its job.",
    ),
    _own(
        "history",
        "history_seconds",
        kinds.duration("1m", "365d"),
        "30d",
        "How long a finished batch is remembered; bundles stay.",
    ),
    _own(
        "audit",
        "audit",
        kinds.AUDIT,
        "",
        "Where it is recorded who did what: a file, or stdout; empty: nowhere.",
    ),
    _own("api.host", "api.host", kinds.HOST, "127.0.0.1", "Where health, metrics and the API listen."),
    _own("api.port", "api.port", kinds.PORT_OR_NONE, "8080", "Their port; with 0 nothing listens."),
    _own("api.token", "api.token", kinds.TOKEN, "", "The bearer token that the API asks for.", secret=True),
)

BY_FIELD: dict[str, Setting] = {setting.field: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Match:
    """What a name stands for."""

    setting: Setting
    index: int | None = None
    generation: Generation | None = None
    """None where both generations share the name."""
    file: bool = False
    """Whether the value is the path of a file that holds the secret."""


def match_dotted(name: str) -> Match | None:
    """Find what a dotted name stands for, in any of its spellings; None when nothing."""
    if not re.fullmatch(r"[\w-]+(\.[\w-]+|\[[0-9]{1,6}\])*", name):
        return None
    return _look_up(_dotted_tokens(name), _dotted_table())


def match_variable(name: str) -> Match | None:
    """Find what an environment variable stands for; None when nothing."""
    if re.search(r"[.\[]", name):
        return match_dotted(name)
    return _look_up(name.upper().replace("-", "").split("_"), _variable_table())


def covering(name: str) -> str | None:
    """Return the beginning of a name that is a setting by itself: what follows its dot cannot belong to a name."""
    ends = (found.start() for found in re.finditer(r"[.\[]", name))
    return next((name[:end] for end in ends if match_variable(name[:end]) or match_dotted(name[:end])), None)


def is_group(name: str) -> bool:
    """Whether a dotted name is the beginning of settings without being one."""
    tokens = _keyed(_dotted_tokens(name))
    return any(key[: len(tokens)] == tokens for key in _dotted_table())


def is_ours(name: str, *, for_certain: bool = False) -> bool:
    """Whether a name lies under our prefixes, or so near to one of them that it must be a slip.

    ``for_certain`` where names of others may look alike: then no word of the prefix may be missing.
    """
    place = _place(name)
    return place is not None and (place.whole or not for_certain)


def begins_like_ours(name: str) -> bool:
    """Whether a name begins with the platform's own name, or nearly so."""
    return any(similar(token, "moderne") for token in _loose_tokens(name)[:1])


def nearest(name: str, style: Style) -> str:
    """Return the known name that comes closest to an unknown one under our prefixes, in the same style."""
    place = _place(name) or _Place(Generation.AGENT, indexed=False, rest=tuple(_loose_tokens(name)), whole=False)
    numbers = [token for token in place.rest if _is_number(token)]
    rest = "".join(token for token in place.rest if not token.isdecimal())[:100]
    prefix = AGENT_INDEX if place.indexed else OURS
    candidates = [setting for setting in SETTINGS if setting.name.startswith(prefix)]
    best = max(candidates, key=lambda setting: _similarity(rest, _tail(setting.dotted(0, place.generation))))
    return best.spelled(style, int(numbers[0]) if numbers else 0, place.generation)


def similar(one: str, other: str) -> bool:
    """Whether one word is the other with a slip or two in it, or with its letters in another order."""
    return sorted(one) == sorted(other) or _similarity(one[:40], other) >= _A_SLIP_OF_A_SHORT_WORD


def with_smaller_numbers(name: str) -> str:
    """Return a name with 0 in place of numbers that are larger than that of any index."""
    return re.sub("[0-9]{7,}", "0", name)


@dataclass(frozen=True)
class _Place:
    """Where a name lies, however it is misspelled."""

    generation: Generation
    indexed: bool
    rest: tuple[str, ...]
    """What follows the prefix, beginning with the number of the index."""
    whole: bool = True
    """Whether no word of the prefix is missing."""


def _place(name: str) -> _Place | None:
    """Tell under which of our prefixes a name lies.

    A slip is forgiven where the words around it leave no doubt: ``modern.agent.pypi[0].url``, and ``moderne.pypi`` or
    ``agent.pypi`` with a word missing. Nobody else's names may be taken for ours: ``moderne.agent.maven[0].url``.
    """
    tokens = _loose_tokens(name)
    path = CONNECTOR_INDEX.split(".")
    if len(tokens) >= len(path) and all(map(similar, tokens, path[:-1])):
        return _at(tokens[len(path) - 1 :], Generation.CONNECTOR, whole=True)
    missing = 2
    for word in ("moderne", "agent"):
        if tokens and similar(tokens[0], word):
            tokens, missing = tokens[1:], missing - 1
    return _at(tokens, Generation.AGENT, whole=not missing)


def _at(tokens: list[str], generation: Generation, *, whole: bool) -> _Place | None:
    """Tell what the first token stands for. With a word missing before it, no slip is forgiven."""
    if not tokens:
        return None
    word = tokens[0].rstrip("0123456789")
    rest = tuple(token for token in (tokens[0][len(word) :], *tokens[1:]) if token)
    if word == "pypi" or (whole and similar(word, "pypi")):
        return _Place(generation, indexed=True, rest=rest, whole=whole)
    ours = generation is Generation.AGENT and _similarity(word, "visualization") > _A_SLIP
    if word == "visualization" or (ours and whole):
        return _Place(generation, indexed=False, rest=rest, whole=whole)
    return None


_A_SLIP = 0.9
"""A letter or two off in a word as long as ``visualization``."""
_A_SLIP_OF_A_SHORT_WORD = 0.75


def _loose_tokens(name: str) -> list[str]:
    return [token.lower() for token in re.split(r"[._\[\]]+", name.replace("-", "")) if token]


def _is_number(token: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,6}", token))


def _tail(dotted: str) -> str:
    for prefix in (OURS, f"{AGENT_INDEX}[0]", f"{CONNECTOR_INDEX}[0]"):
        dotted = dotted.removeprefix(f"{prefix}.")
    return dotted.replace(".", "").lower()


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(a=one, b=other, autojunk=False).ratio()


def _look_up(tokens: list[str], table: dict[tuple[str, ...], Match]) -> Match | None:
    found = table.get(_keyed(tokens))
    number = next((int(token) for token in tokens if _is_number(token)), None)
    return found and Match(found.setting, number, found.generation, found.file)


def _keyed(tokens: list[str]) -> tuple[str, ...]:
    return tuple("#" if _is_number(token) else token for token in tokens)


def _dotted_tokens(name: str) -> list[str]:
    return [re.sub("[-_]", "", token).lower() for token in re.split(r"[.\[\]]+", name) if token]


def _rows() -> Iterator[tuple[str, Match]]:
    for setting in SETTINGS:
        for generation in Generation if setting.indexed else (None,):
            dotted = setting.dotted(generation=generation or Generation.AGENT).replace("{index}", "#")
            yield dotted, Match(setting, None, generation)
            if setting.secret:
                yield f"{dotted}File", Match(setting, None, generation, file=True)


@cache
def _dotted_table() -> dict[tuple[str, ...], Match]:
    return {tuple(_dotted_tokens(dotted)): match for dotted, match in _rows()}


@cache
def _variable_table() -> dict[tuple[str, ...], Match]:
    table = {}
    for dotted, match in _rows():
        segments = [token for token in re.split(r"[.\[\]]+", dotted) if token]
        for spelling in itertools.product(*map(_variable_spellings, segments)):
            table[tuple("_".join(spelling).split("_"))] = match
    return table


def _variable_spellings(segment: str) -> set[str]:
    flat_file = re.sub("File$", "", segment).upper() + "_FILE" if segment.endswith("File") else segment.upper()
    return {segment.upper(), flat_file, re.sub("(?<!^)(?=[A-Z])", "_", segment).upper()}
