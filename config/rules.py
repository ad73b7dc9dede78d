"""The rules that bind several settings. Each yields what breaks it, by the names that the user wrote."""

from collections.abc import Iterator
from itertools import chain

from config.choice import Choice
from config.entries import Entry
from config.names import BY_FIELD, Generation
from config.problems import Problem

_OF_S3 = ("storage.endpoint_url", "storage.access_key", "storage.secret_key", "storage.profile")
REDIS_PARTS = ("host", "port", "username", "password", "ssl", "database")


def broken(choice: Choice) -> list[Problem]:
    """Tell everything that does not go together."""
    each_index = (_index(choice, number) for number in choice.indexes)
    return [
        *chain(_generations(choice), _gaps(choice), chain.from_iterable(each_index), _only_configured(choice)),
        *chain(_redis(choice), _storage(choice), _retry(choice)),
    ]


def _beside(entry: Entry, field: str) -> str:
    """Return the name of another setting, as the author of this entry would write it."""
    match = entry.match
    setting = BY_FIELD[field]
    index = match.index if setting.indexed else None
    return setting.spelled(entry.source.style, index, match.generation or Generation.AGENT)


def _generations(choice: Choice) -> Iterator[Problem]:
    """Look at all that was written, not only at what decides: the other generation would be lost without a word."""
    written = _saying_something(choice)
    agent = next((entry for entry in written if entry.match.generation is Generation.AGENT), None)
    connector = [entry for entry in written if entry.match.generation is Generation.CONNECTOR]
    if agent and connector:
        advice = (
            f"cannot be mixed with {agent.written} ({agent.source.label}); use one generation of names for all indexes"
        )
        yield connector[0].problem(advice)
    switch = choice.entry("use_only_configured")
    if switch and connector:
        yield switch.problem("has no meaning with the Connector's names, which never add the public index; remove it")


def _saying_something(choice: Choice) -> list[Entry]:
    """Return the entries with a value, and those that take a value of another entry back."""
    said = {(entry.match.setting.field, entry.match.index) for entry in choice.all_entries if entry.value.strip()}
    return [
        entry
        for entry in sorted(choice.all_entries, key=lambda entry: entry.source.rank)
        if entry.value.strip() or (entry.match.setting.field, entry.match.index) in said
    ]


def _gaps(choice: Choice) -> Iterator[Problem]:
    for before, number in zip([-1, *choice.indexes], choice.indexes, strict=False):
        if number > before + 1:
            one = number == before + 2
            missing = f"index {before + 1} is" if one else f"indexes {before + 1} to {number - 1} are"
            advice = f"{missing} missing before it; number the indexes from 0 without gaps"
            yield choice.first(number).problem(advice)


def _index(choice: Choice, number: int) -> Iterator[Problem]:
    yield from _url(choice, number)
    yield from _authentication(choice, number)
    for one, other in (("indexes.proxy.host", "indexes.proxy.port"), ("indexes.proxy.port", "indexes.proxy.host")):
        yield from _needs(choice, one, other, number)


def _url(choice: Choice, number: int) -> Iterator[Problem]:
    if empty := choice.empty.get(("indexes.url", number)):
        yield empty.problem("is empty; write the URL of the index, or remove every setting of this index")
    elif not choice.entry("indexes.url", number):
        first = choice.first(number)
        yield first.problem(f"index {number} has no URL; set {_beside(first, 'indexes.url')}")


def _authentication(choice: Choice, number: int) -> Iterator[Problem]:
    username, password, token = (
        choice.entry(f"indexes.{leaf}", number) for leaf in ("username", "password", "bearer_token")
    )
    basic = username or password
    if token and basic:
        yield token.problem(f"cannot be used together with {basic.written}; keep the token or basic auth")
    else:
        yield from _needs(choice, "indexes.username", "indexes.password", number)
        yield from _needs(choice, "indexes.password", "indexes.username", number)


def _needs(choice: Choice, one: str, other: str, number: int | None = None) -> Iterator[Problem]:
    entry = choice.entry(one, number)
    if entry and not choice.entry(other, number):
        yield entry.problem(f"needs {_beside(entry, other)}; set both or none")


def _only_configured(choice: Choice) -> Iterator[Problem]:
    switch = choice.entry("use_only_configured")
    if switch and choice.value("use_only_configured") and not choice.indexes:
        name = BY_FIELD["indexes.url"].spelled(switch.source.style, 0)
        yield switch.problem(f"leaves no index, since none is configured; set {name}, or set this to false")


def _redis(choice: Choice) -> Iterator[Problem]:
    url = choice.entry("redis.url")
    parts = [part for part in (choice.entry(f"redis.{name}") for name in REDIS_PARTS) if part]
    if url and parts:
        yield url.problem(f"cannot be used together with {parts[0].written}; keep the URL or the parts")
    elif parts and not choice.entry("redis.host"):
        yield parts[0].problem(f"needs {_beside(parts[0], 'redis.host')}; set it too")


def _storage(choice: Choice) -> Iterator[Problem]:
    yield from _needs(choice, "storage.access_key", "storage.secret_key")
    yield from _needs(choice, "storage.secret_key", "storage.access_key")
    key, profile = choice.entry("storage.access_key"), choice.entry("storage.profile")
    if key and profile:
        yield profile.problem(f"cannot be used together with {key.written}; keep the profile or the keys")
    # Without a value that can be read nobody knows what was meant.
    uri = choice.value("storage.uri") if choice.entry("storage.uri") else BY_FIELD["storage.uri"].default
    for_s3 = next(filter(None, map(choice.entry, _OF_S3)), None)
    if for_s3 and uri is not None and not uri.lower().startswith("s3:"):
        name = _beside(for_s3, "storage.uri")
        yield for_s3.problem(f"is for S3, but bundles go to a directory; set {name} to s3://bucket/prefix")


def _retry(choice: Choice) -> Iterator[Problem]:
    low, high = "retry.min_backoff_seconds", "retry.max_backoff_seconds"
    bounds = [choice.value(field) for field in (low, high)]
    defaults = [BY_FIELD[field].kind.parse(BY_FIELD[field].default) for field in (low, high)]
    shortest, longest = (default if bound is None else bound for bound, default in zip(bounds, defaults, strict=True))
    for one, other in ((high, low), (low, high)):
        if shortest > longest and (entry := choice.entry(one)):
            yield entry.problem(
                f"makes the longest pause shorter than the shortest; look also at {_beside(entry, other)}"
            )
            return
