import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from config.entries import split_foreign
from config.settings import IndexSettings, Proxy, Settings
from config.sources import Problem, SettingsError, load, read, split_arguments, trace
from tests.support.planted import input_file

AGENT = "--moderne.agent.pypi[0]."
ENV = "MODERNE_AGENT_PYPI_0_"
URL = "https://pypi.example.com/simple"
OURS = "--moderne.agent.visualization."


def index(arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> IndexSettings:
    """The first index, with a URL unless one is given."""
    given = {**({} if any("url" in item for item in arguments) else {f"{ENV}URL": URL}), **(environment or {})}
    return load(arguments, given).indexes[0]


def problems(
    arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Problem, ...]:
    with pytest.raises(SettingsError) as caught:
        load(arguments, environment or {}, file=file)
    return caught.value.problems


def only_problem(
    arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None, file: Path | None = None
) -> Problem:
    found = problems(arguments, environment, file)
    assert len(found) == 1, found
    return found[0]


def written(tmp_path: Path, text: str) -> Path:
    return input_file(tmp_path, "vizfetch.yml", text)


def plain(settings: Settings) -> dict[str, object]:
    """Everything but what differs from process to process."""
    return settings.model_dump(exclude={"nickname": True, "cache": {"directory"}})


# --- what users have today


def test_four_documented_variables_are_understood_unchanged() -> None:
    settings = load(
        [],
        {
            "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED": "true",
            "MODERNE_AGENT_PYPI_0_URL": URL,
            "MODERNE_AGENT_PYPI_0_USERNAME": "alice",
            "MODERNE_AGENT_PYPI_0_PASSWORD": "correct horse",
        },
    )
    assert settings.use_only_configured
    (only,) = settings.indexes
    assert (only.name, only.url, only.username) == ("pypi[0]", URL, "alice")
    assert only.password is not None
    assert only.password.get_secret_value() == "correct horse"


def test_the_same_four_as_arguments() -> None:
    arguments = [
        "--moderne.agent.visualization.useOnlyConfigured=true",
        f"--moderne.agent.pypi[0].url={URL}",
        "--moderne.agent.pypi[0].username=alice",
        "--moderne.agent.pypi[0].password=correct horse",
    ]
    environment = {
        "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED": "true",
        "MODERNE_AGENT_PYPI_0_URL": URL,
        "MODERNE_AGENT_PYPI_0_USERNAME": "alice",
        "MODERNE_AGENT_PYPI_0_PASSWORD": "correct horse",
    }
    assert plain(load(arguments, {})) == plain(load([], environment))


def test_nothing_written_gives_the_defaults_and_the_public_index() -> None:
    settings = load([], {})
    assert plain(settings) == plain(
        Settings(
            nickname="x",
            indexes=(IndexSettings(name="public", url=PYPI_SIMPLE_ENDPOINT, skip_validate_connectivity=True),),
        )
    )
    assert settings.nickname


def test_documented_defaults_of_an_index() -> None:
    assert index() == IndexSettings(
        name="pypi[0]", url=URL, connect_timeout_seconds=30, read_timeout_seconds=60, prefix="moderne.agent.pypi[0]"
    )


def test_the_public_index_comes_last_unless_only_configured() -> None:
    environment = {"MODERNE_AGENT_PYPI_1_URL": "https://b/simple", "MODERNE_AGENT_PYPI_0_URL": "https://a/simple"}
    names = [one.name for one in load([], environment).indexes]
    assert names == ["pypi[0]", "pypi[1]", "public"]
    only = load([f"{OURS}useOnlyConfigured=true"], environment).indexes
    assert [one.url for one in only] == ["https://a/simple", "https://b/simple"]


@pytest.mark.parametrize(
    "name",
    [
        "--moderne.agent.pypi[0].skipSsl",
        "--moderne.agent.pypi[0].skip-ssl",
        "--moderne.agent.pypi[0].skip_ssl",
        "--moderne.agent.pypi[0].SKIPSSL",
        "--moderne.agent.pypi[0].skipssl",
        "--moderne.agent.pypi.0.skipSsl",
        "--MODERNE.AGENT.PYPI[0].SKIP-SSL",
        "-Dmoderne.agent.pypi[0].skipSsl",
        "-Dmoderne.agent.pypi[0].skip-ssl",
    ],
)
def test_spellings_of_arguments(name: str) -> None:
    assert index([f"{name}=true"]).skip_ssl


@pytest.mark.parametrize(
    "name",
    [
        "MODERNE_AGENT_PYPI_0_SKIPSSL",
        "MODERNE_AGENT_PYPI_0_SKIP_SSL",
        "moderne_agent_pypi_0_skipssl",
        "MODERNE_AGENT_PYPI_0_SKIP-SSL",
        "moderne.agent.pypi[0].skipSsl",
    ],
)
def test_spellings_of_variables(name: str) -> None:
    assert index(environment={name: "true"}).skip_ssl


@pytest.mark.parametrize(
    ("leaf", "value", "field", "expected"),
    [
        ("skipSsl", "TRUE", "skip_ssl", True),
        ("skipValidateConnectivity", "True", "skip_validate_connectivity", True),
        ("connectTimeout", "500ms", "connect_timeout_seconds", 0.5),
        ("readTimeout", "PT1M30S", "read_timeout_seconds", 90),
        ("readTimeout", " 2h ", "read_timeout_seconds", 7200),
        ("url", "http://[::1]:8080/simple", "url", "http://[::1]:8080/simple"),
    ],
)
@pytest.mark.parametrize("form", ["--moderne.agent.pypi[0].{}", "-Dmoderne.agent.pypi[0].{}", "env", "connector"])
def test_every_leaf_in_every_source(form: str, leaf: str, value: str, field: str, expected: object) -> None:
    if form == "env":
        got = index(environment={ENV + leaf.upper(): value})
    elif form == "connector":
        prefix = "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_"
        leaf_there = "URI" if leaf == "url" else leaf.upper()
        got = load([], {f"{prefix}URI": URL, f"{prefix}{leaf_there}": value}).indexes[0]
    else:
        got = index([f"{form.format(leaf)}={value}"])
    assert getattr(got, field) == expected


def test_proxy_of_one_index() -> None:
    got = index(environment={f"{ENV}PROXY_HOST": "proxy.example.com", f"{ENV}PROXY_PORT": "3128"})
    assert got.proxy == Proxy(host="proxy.example.com", port=3128)


def test_bearer_token() -> None:
    token = index([f"{AGENT}bearer-token=abc.def=="]).bearer_token
    assert token is not None
    assert token.get_secret_value() == "abc.def=="


def test_connector_names_never_add_the_public_index() -> None:
    settings = load(
        [
            f"--moderne.recipe.marketplace.repositories.pypi[0].uri={URL}",
            "-Dmoderne.recipe.marketplace.repositories.pypi[0].read-timeout=5m",
        ],
        {},
    )
    prefix = "moderne.recipe.marketplace.repositories.pypi[0]"
    assert settings.indexes == (IndexSettings(name="pypi[0]", url=URL, read_timeout_seconds=300, prefix=prefix),)
    assert settings.use_only_configured


def test_other_parts_of_the_agent_are_left_alone() -> None:
    environment = {
        "MODERNE_AGENT_MAVEN_0_URL": "https://maven.example.com",
        "MODERNE_AGENT_ARTIFACTORY_0_PASSWORD": "x",
        "MODERNE_AGENT_ORGANIZATION_FILEPATH": "/x",
        "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_MAVEN_0_URI": "https://maven.example.com",
        "MODERNE": "1",
        "PATH": "/bin",
    }
    arguments = ["--moderne.agent.maven[0].url=x", "-Dmoderne.agent.crypto.symmetricKey=y", "--server.port=1"]
    assert plain(load(arguments, environment)) == plain(load([], {}))


def test_variables_that_kubernetes_makes_for_a_service_are_left_alone() -> None:
    service = "MODERNE_AGENT_VISUALIZATION_"
    links = {
        f"{service}SERVICE_HOST": "10.0.0.1",
        f"{service}SERVICE_PORT": "8080",
        f"{service}SERVICE_PORT_HTTP": "8080",
        f"{service}PORT": "tcp://10.0.0.1:8080",
        f"{service}PORT_8080_TCP": "tcp://10.0.0.1:8080",
        f"{service}PORT_8080_TCP_PROTO": "tcp",
    }
    assert plain(load([], links)) == plain(load([], {}))
    assert only_problem(environment={f"{service}PORT": "8080"}).message.endswith("_API_PORT?")


def test_nor_do_they_become_settings_when_a_service_has_the_name_of_one() -> None:
    """As ``moderne-agent-visualization-redis`` has."""
    service, link = "MODERNE_AGENT_VISUALIZATION_", "tcp://10.0.0.1:6379"
    hosts = {f"{service}REDIS_SERVICE_HOST": "10.0.0.1", f"{service}API_SERVICE_HOST": "10.0.0.2"}
    links = {f"{service}REDIS_PORT": link, f"{service}API_PORT": link, f"{service}REDIS_PORT_6379_TCP": link, **hosts}
    assert plain(load([], links)) == plain(load([], {}))
    assert load([], links | {f"{service}API_PORT": "9"}).api.port == 9
    assert "not a whole number" in only_problem(environment={f"{service}API_PORT": link}).message


def test_java_temporary_directory() -> None:
    assert load(["-Djava.io.tmpdir=/scratch"], {"TMPDIR": "/c"}).temporary_directory == Path("/scratch")
    assert load([], {"TMPDIR": "/scratch"}).temporary_directory == Path("/scratch")
    wins = load([f"{OURS}temporaryDirectory=/a", "-Djava.io.tmpdir=/b"], {"TMPDIR": "/c"})
    assert wins.temporary_directory == Path("/a")


OWN_CACHE = str(Settings(nickname="n").temporary_directory / f"vizfetch-cache-{os.getuid()}")


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"XDG_CACHE_HOME": "/caches", "HOME": "/home/ada"}, "/caches/vizfetch"),
        ({"XDG_CACHE_HOME": "caches", "HOME": "/home/ada"}, "/home/ada/.cache/vizfetch"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/ada"}, "/home/ada/.cache/vizfetch"),
        ({"HOME": "/"}, OWN_CACHE),
        ({"HOME": "/home/\x00"}, OWN_CACHE),
        ({"TMPDIR": "/scratch"}, f"/scratch/vizfetch-cache-{os.getuid()}"),
        ({"HOME": "/home/ada", "MODERNE_AGENT_VISUALIZATION_CACHE_DIRECTORY": "/c"}, "/c"),
        ({"HOME": "/home/ada", "MODERNE_AGENT_VISUALIZATION_CACHE_DIRECTORY": ""}, "/home/ada/.cache/vizfetch"),
    ],
)
def test_the_cache_is_the_user_s_own_unless_it_is_set(environment: dict[str, str], directory: str) -> None:
    reading = read([], environment)
    assert reading.settings.cache.directory == Path(directory)
    (row,) = [row for row in reading.effective if row.name.endswith("cache.directory")]
    assert row.value == directory


@pytest.mark.parametrize(
    ("name", "url", "password"),
    [
        ("MODERNE_AGENT_PYPI_0_URL", "moderne.agent.pypi[0].url", "moderne.agent.pypi[0].password"),
        (
            "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_URI",
            "moderne.recipe.marketplace.repositories.pypi[0].uri",
            "moderne.recipe.marketplace.repositories.pypi[0].password",
        ),
    ],
)
def test_an_index_knows_what_its_settings_are_called(name: str, url: str, password: str) -> None:
    only = load([], {name: URL}).indexes[0]
    assert (only.setting("url"), only.setting("password")) == (url, password)
    assert IndexSettings(name="pypi[2]", url=URL).setting("skipSsl") == "moderne.agent.pypi[2].skipSsl"


def test_nickname_is_ours() -> None:
    assert load([], {"MODERNE_AGENT_NICKNAME": "agent-7"}).nickname == "agent-7"


# --- command line


def test_split_arguments_takes_the_agents_from_any_place() -> None:
    argv = [
        "-Djava.io.tmpdir=/x",
        "fetch",
        "--moderne.agent.pypi[0].url=u",
        "a==1",
        "--json",
        "-Dmoderne.agent.nickname=n",
    ]
    ours, rest = split_arguments(argv)
    assert ours == ["-Djava.io.tmpdir=/x", "--moderne.agent.pypi[0].url=u", "-Dmoderne.agent.nickname=n"]
    assert rest == ["fetch", "a==1", "--json"]


@pytest.mark.parametrize(
    "word",
    [
        "-Djavax.net.ssl.trustStorePassword=planted",
        "-Dhttps.proxyHost=h",
        "-Djava.awt.headless",
        "--server.port=8080",
        "--spring.profiles.active=on,premises",
        "--management.endpoints.web.exposure.include=*",
    ],
)
def test_arguments_for_java_and_spring_are_known_as_such_and_their_values_dropped(word: str) -> None:
    name = word.partition("=")[0]
    assert split_foreign(["worker", word, "--json"]) == (["worker", "--json"], [name])


@pytest.mark.parametrize("word", ["--redis.url=redis://h", "--json", "-r", "server.port==1", "--server", "-Dx.y=1"])
def test_no_other_argument_is_passed_over(word: str) -> None:
    assert split_foreign([word]) == ([word], [])


def test_an_argument_without_a_value_is_told() -> None:
    ours, rest = split_arguments(["worker", "--moderne.agent.pypi[0].password", "planted-secret", "--json"])
    assert rest == ["worker", "--json"]
    problem = only_problem([*ours, f"{AGENT}url={URL}"])
    assert problem.source == "argument"
    assert problem.name == "--moderne.agent.pypi[0].password"
    assert "name=value" in problem.message


def test_a_command_is_no_value() -> None:
    argv = ["-Dmoderne.agent.pypi[0].skipSsl", "worker", "--moderne.agent.pypi[0].password", "worker", "x"]
    assert split_arguments(argv, {"worker"}) == (
        ["-Dmoderne.agent.pypi[0].skipSsl", "--moderne.agent.pypi[0].password"],
        ["worker", "x"],
    )


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("moderne.agent.pypi[0].password=planted", "--moderne.agent.pypi[0].password=value"),
        ("-moderne.agent.pypi[0].password=planted", "--moderne.agent.pypi[0].password=value"),
        ("MODERNE_AGENT_PYPI_0_PASSWORD=planted", "--moderne.agent.pypi[0].password=value"),
        ("--MODERNE_AGENT_PYPI_0_PASSWORD=planted", "--moderne.agent.pypi[0].password=value"),
        ("--modern.agent.pypi[0].password=planted", "--moderne.agent.pypi[0].password=value"),
        ("-Dmoderne_agent_visualization_api_token=planted", "--moderne.agent.visualization.api.token=value"),
        ("--moderne_recipe_marketplace.repositories.pypi[0].uri=planted", "pypi[0].uri=value"),
        ("\u2014moderne.agent.pypi[0].password=planted", "--moderne.agent.pypi[0].password=value"),
        ("\u2013Dmoderne.agent.pypi[0].password=planted", "--moderne.agent.pypi[0].password=value"),
        ("\u201c--moderne.agent.pypi[0].password=planted\u201d", "--moderne.agent.pypi[0].password=value"),
        ("' -Dmoderne.agent.pypi[0].password=planted'", "--moderne.agent.pypi[0].password=value"),
    ],
)
def test_a_setting_that_is_written_as_no_argument_is(word: str, advice: str) -> None:
    assert split_arguments(["worker", word, "x"]) == ([word], ["worker", "x"])
    problem = only_problem([word])
    assert advice in problem.message
    assert "planted" not in str(problem)


@pytest.mark.parametrize(
    "word",
    ["moderne_visualizations_misc==2.0", "moderne-visualizations-misc", "moderne.visualizations==1", "--out=moderne.x"],
)
def test_what_is_no_setting_among_the_arguments(word: str) -> None:
    assert split_arguments([word]) == ([], [word])


# --- precedence


def test_precedence(tmp_path: Path) -> None:
    path = written(tmp_path, f"moderne.agent.nickname: file\nmoderne.agent.pypi[0].url: {URL}\n")
    environment = {"MODERNE_AGENT_NICKNAME": "environment"}
    system, argument = "-Dmoderne.agent.nickname=system", "--moderne.agent.nickname=argument"
    assert load([], {}, file=path).nickname == "file"
    assert load([], environment, file=path).nickname == "environment"
    assert load([system], environment, file=path).nickname == "system"
    assert load([system, argument], environment, file=path).nickname == "argument"
    assert load([system, argument], environment, file=path).indexes[0].url == URL


def test_config_argument_wins_over_the_variable(tmp_path: Path) -> None:
    path = written(tmp_path, "moderne.agent.nickname: one")
    other = tmp_path / "other.yml"
    other.write_text("moderne.agent.nickname: two")
    assert load([], {"VIZFETCH_CONFIG": str(path)}).nickname == "one"
    assert load([], {"VIZFETCH_CONFIG": str(path)}, file=other).nickname == "two"
    assert load([], {"VIZFETCH_CONFIG": ""}).nickname not in {"one", "two"}


def test_an_empty_value_takes_a_setting_back_to_its_default() -> None:
    environment = {f"{ENV}PROXY_HOST": "", f"{ENV}PROXY_PORT": "", f"{ENV}READTIMEOUT": " "}
    assert index(environment=environment) == index()
    assert index([f"{AGENT}readTimeout="], {f"{ENV}READTIMEOUT": "5s"}).read_timeout_seconds == 60


# --- the file


def test_nested_and_dotted_yaml_say_the_same(tmp_path: Path) -> None:
    nested = """
moderne:
  agent:
    visualization:
      use-only-configured: true
      sdists: [Umap_Learn, pynndescent]
      storage:
        uri: s3://bucket/prefix
    pypi:
      - url: https://a/simple
        proxy: {host: proxy, port: 3128}
      - url: https://b/simple
        bearerToken: 0123
    maven: [{url: x}]
spring: {profiles: {active: x}}
"""
    dotted = """
moderne.agent.visualization.useOnlyConfigured: yes
moderne.agent.visualization.sdists: umap-learn, pynndescent
moderne.agent:
  visualization.storage.uri: s3://bucket/prefix
  pypi[0].url: https://a/simple
  pypi.0.proxy.host: proxy
  pypi[0]: {proxy.port: 3128}
  pypi:
    1: {url: "https://b/simple"}
    "[1]": {bearer_token: '0123'}
"""
    one = load([], {}, file=written(tmp_path, nested))
    assert one.sdists == ("umap-learn", "pynndescent")
    assert one.indexes[1].bearer_token is not None
    assert one.indexes[1].bearer_token.get_secret_value() == "0123"
    assert plain(load([], {}, file=written(tmp_path, dotted))) == plain(one)


def test_yaml_anchors_and_merges(tmp_path: Path) -> None:
    text = """
common: &common
  proxy: {host: proxy, port: 3128}
  readTimeout: 5s
moderne.agent.pypi:
  - {<<: *common, url: "https://a/simple"}
  - {<<: [*common], url: "https://b/simple", readTimeout: 7s}
  - {<<: [{connectTimeout: 1s}, {<<: *common, connectTimeout: 2s}], url: "https://c/simple"}
"""
    first, second, third, _ = load([], {}, file=written(tmp_path, text)).indexes
    assert first.proxy == second.proxy == third.proxy == Proxy(host="proxy", port=3128)
    assert (first.read_timeout_seconds, second.read_timeout_seconds) == (5, 7)
    assert (third.connect_timeout_seconds, third.read_timeout_seconds) == (1, 5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "moderne:\n  agent:\n    pypi:\n    visualization:\n", "~"])
def test_an_empty_file_or_heading_says_nothing(tmp_path: Path, text: str) -> None:
    assert plain(load([], {}, file=written(tmp_path, text))) == plain(load([], {}))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("moderne.agent.pypi:\n  - password: planted: secret\n", 2),
        ("a: !!python/object:planted.secret {}\nb: [", 2),
        ("- planted-secret\n", 1),
        ("planted-secret", 1),
        ("a: *planted-secret", 1),
        ("a: &a [*a]\nmoderne.agent.pypi: *a", None),
        ('a: "\\Uffffffff"', None),
        ("? [planted, secret]\n: x", 1),
        ("<<: planted-secret", 1),
        ("a: &a {<<: *a}", None),
        ("[" * 5000, None),
        ("a: \x00", None),
    ],
)
def test_a_broken_file_is_told_by_line_alone(tmp_path: Path, text: str, line: int | None) -> None:
    problem = only_problem(file=written(tmp_path, text))
    assert problem.source == "vizfetch.yml"
    assert problem.name == "YAML"
    assert line is None or problem.line == line
    assert "planted" not in str(problem)


def test_a_file_of_aliases_that_multiply_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "too large" in only_problem(file=written(tmp_path, "\n".join(lines))).message


def test_a_file_that_is_not_there_is_told_by_who_named_it(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yml"
    assert only_problem(file=missing).name == "--config"
    by_variable = only_problem(environment={"VIZFETCH_CONFIG": str(missing)})
    assert (by_variable.source, by_variable.name) == ("environment", "VIZFETCH_CONFIG")
    assert "cannot be read" in by_variable.message
    assert "cannot be read" in only_problem(environment={"VIZFETCH_CONFIG": "x\0"}).message
    assert "cannot be read" in only_problem(file=tmp_path).message


def test_a_problem_in_the_file_has_its_line(tmp_path: Path) -> None:
    text = "moderne:\n  agent:\n    pypi:\n      - url: https://a/simple\n        readTimeout: soon\n"
    problem = only_problem(file=written(tmp_path, text))
    assert (problem.source, problem.line) == ("vizfetch.yml", 5)
    assert problem.name == "moderne.agent.pypi[0].readTimeout"
    assert str(problem).startswith("vizfetch.yml line 5: moderne.agent.pypi[0].readTimeout: not a duration")


def test_a_group_where_one_value_belongs(tmp_path: Path) -> None:
    text = f"moderne.agent.pypi:\n- url: {URL}\n  username: u\n  password: {{planted-secret: }}\n"
    found = problems(file=written(tmp_path, text))
    assert found[0].name == "moderne.agent.pypi[0].password"
    assert "takes one value" in found[0].message
    assert "planted" not in str(found)


# --- secrets from files


@pytest.mark.parametrize("name", ["PASSWORD_FILE", "PASSWORDFILE"])
def test_a_password_from_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text("with space \n")
    got = index(environment={f"{ENV}USERNAME": "u", f"{ENV}{name}": str(path)}).password
    assert got is not None
    assert got.get_secret_value() == "with space "


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("MODERNE_AGENT_PYPI_0_BEARERTOKEN_FILE", f"{AGENT}bearer-token-file"),
        ("MODERNE_AGENT_PYPI_0_BEARER_TOKEN_FILE", f"{AGENT}bearerToken_FILE"),
        ("MODERNE_AGENT_VISUALIZATION_API_TOKEN_FILE", f"{OURS}api.tokenFile"),
    ],
)
def test_secrets_from_files_in_all_spellings(tmp_path: Path, name: str, argument: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"token-1\r\n")
    url = {f"{ENV}URL": URL}
    assert plain(load([], {**url, name: str(path)})) == plain(load([f"{argument}={path}"], url))
    settings = load([], {**url, name: str(path)})
    got = settings.api.token or settings.indexes[0].bearer_token
    assert got is not None
    assert got.get_secret_value() == "token-1"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 70_000, None])
def test_a_secret_file_that_cannot_serve(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "planted-secret"
    if content is not None:
        path.write_bytes(content)
    environment = {f"{ENV}URL": URL, f"{ENV}USERNAME": "u", f"{ENV}PASSWORD_FILE": str(path)}
    problem = only_problem(environment=environment)
    assert problem.name == f"{ENV}PASSWORD_FILE"
    assert "names a file" in problem.message
    assert "planted" not in str(problem)


def test_only_secrets_come_from_files() -> None:
    problem = only_problem(environment={f"{ENV}URL_FILE": "/x"})
    assert f"did you mean {ENV}URL?" in problem.message


def test_a_secret_and_its_file_in_one_source_contradict() -> None:
    environment = {f"{ENV}URL": URL, f"{ENV}BEARERTOKEN": "x", f"{ENV}BEARERTOKEN_FILE": "x"}
    assert "set a second time" in str(problems(environment=environment))


# --- redis and storage


def test_redis_by_parts() -> None:
    arguments = [
        f"{OURS}redis.host=redis.example.com",
        f"{OURS}redis.username=us:er",
        f"{OURS}redis.password=p@ss/word",
        f"{OURS}redis.ssl=true",
        f"{OURS}redis.database=3",
    ]
    url = load(arguments, {}).redis.url.get_secret_value()
    assert url == "rediss://us%3Aer:p%40ss%2Fword@redis.example.com:6379/3"
    assert load([f"{OURS}redis.host=::1"], {}).redis.url.get_secret_value() == "redis://[::1]:6379/0"
    password = load([f"{OURS}redis.host=h", f"{OURS}redis.password=p"], {}).redis.url
    assert password.get_secret_value() == "redis://:p@h:6379/0"


def test_storage_with_keys() -> None:
    storage = load(
        [],
        {
            "MODERNE_AGENT_VISUALIZATION_STORAGE_URI": "s3://bucket/a/b",
            "MODERNE_AGENT_VISUALIZATION_STORAGE_ENDPOINT_URL": "http://127.0.0.1:9000",
            "MODERNE_AGENT_VISUALIZATION_STORAGE_ACCESSKEY": "AK",
            "MODERNE_AGENT_VISUALIZATION_STORAGE_SECRET_KEY": "SK",
            "MODERNE_AGENT_VISUALIZATION_STORAGE_REGION": "eu-central-1",
        },
    ).storage
    assert (storage.uri, storage.endpoint_url, storage.region) == (
        "s3://bucket/a/b",
        "http://127.0.0.1:9000",
        "eu-central-1",
    )
    assert storage.access_key is not None
    assert storage.access_key.get_secret_value() == "AK"


# --- the rules


@pytest.mark.parametrize(
    ("environment", "name", "advice"),
    [
        ({"USERNAME": "u"}, "USERNAME", f"needs {ENV}PASSWORD"),
        ({"PASSWORD": "p"}, "PASSWORD", f"needs {ENV}USERNAME"),
        ({"USERNAME": "u", "PASSWORD": ""}, "USERNAME", f"needs {ENV}PASSWORD"),
        ({"USERNAME": "u", "PASSWORD": "p", "BEARERTOKEN": "t"}, "BEARERTOKEN", f"together with {ENV}USERNAME"),
        ({"PASSWORD": "p", "BEARERTOKEN": "t"}, "BEARERTOKEN", f"together with {ENV}PASSWORD"),
        ({"BEARERTOKEN": "Bearer t"}, "BEARERTOKEN", "without 'Bearer'"),
        ({"USERNAME": "u:p", "PASSWORD": "p"}, "USERNAME", "colon"),
        ({"USERNAME": "u", "PASSWORD": "a\nb"}, "PASSWORD", "line break"),
        ({"PROXY_HOST": "proxy"}, "PROXY_HOST", f"needs {ENV}PROXY_PORT"),
        ({"PROXY_PORT": "3128"}, "PROXY_PORT", f"needs {ENV}PROXY_HOST"),
        ({"PROXY_HOST": "http://proxy", "PROXY_PORT": "1"}, "PROXY_HOST", "without a scheme"),
        ({"PROXY_HOST": "proxy:80", "PROXY_PORT": "1"}, "PROXY_HOST", "port"),
        ({"PROXY_HOST": "u:p@proxy", "PROXY_PORT": "1"}, "PROXY_HOST", "credentials"),
        ({"PROXY_HOST": "a b", "PROXY_PORT": "1"}, "PROXY_HOST", "not a host name"),
        ({"PROXY_HOST": "proxy", "PROXY_PORT": "70000"}, "PROXY_PORT", "1 to 65535"),
        ({"PROXY_HOST": "proxy", "PROXY_PORT": "\uff11"}, "PROXY_PORT", "1 to 65535"),
        ({"URL": "ftp://a/simple"}, "URL", "http"),
        ({"URL": "pypi.example.com/simple"}, "URL", "https://"),
        ({"URL": "https://u:planted@a/simple"}, "URL", "set username and password"),
        ({"URL": "https:///simple"}, "URL", "host name"),
        ({"URL": "https://a:port/simple"}, "URL", "host and port"),
        ({"URL": "https://[::1/simple"}, "URL", "host and port"),
        ({"URL": "https://a/simple?token=planted"}, "URL", "?"),
        ({"URL": "https://a/sim ple"}, "URL", "space"),
        ({"URL": "\udc80"}, "URL", "write it in UTF-8"),
        ({"SKIPSSL": "maybe"}, "SKIPSSL", "true nor false"),
        ({"CONNECTTIMEOUT": "0s"}, "CONNECTTIMEOUT", "longer than zero"),
        ({"CONNECTTIMEOUT": "1ms"}, "CONNECTTIMEOUT", "from 10ms to 365d"),
        ({"URL": "https://a:0/simple"}, "URL", "port 0"),
        ({"READTIMEOUT": "PT0S"}, "READTIMEOUT", "longer than zero"),
        ({"READTIMEOUT": "-5s"}, "READTIMEOUT", "not a duration"),
        ({"READTIMEOUT": "60"}, "READTIMEOUT", "unit"),
    ],
)
def test_rules_of_one_index(environment: dict[str, str], name: str, advice: str) -> None:
    problem = only_problem(environment={f"{ENV}URL": URL} | {ENV + key: value for key, value in environment.items()})
    assert (problem.source, problem.name) == ("environment", ENV + name)
    assert advice in problem.message
    assert "planted" not in str(problem)


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("redis.url=http://x", "redis://"),
        ("redis.url=REDIS://x", "redis://"),
        ("redis.url=redis://h/x", "percent-encode"),
        ("redis.url=redis://", "host name"),
        ("redis.port=6379", f"needs {OURS}redis.host"),
        ("storage.uri=/var/bundles", "file:///directory"),
        ("storage.uri=file://var/bundles", "three slashes"),
        ("storage.uri=s3:///x", "bucket"),
        ("storage.uri=s3://k:planted@bucket", "accessKey"),
        ("storage.accessKey=planted", f"needs {OURS}storage.secretKey"),
        ("storage.secretKey=planted", f"needs {OURS}storage.accessKey"),
        ("storage.endpointUrl=https://planted@x", "set accessKey and secretKey"),
        ("storage.endpointUrl=https://x:0", "port 0"),
        ("redis.url=redis://h:0", "port 0"),
        ("redis.url=sentinel://h:0/s", "must look like"),
        ("redis.url=sentinel://h:70000/s", "must look like"),
        ("redis.url=redis://h/0?max_connections=foo", "the option 'max_connections'"),
        ("redis.url=redis://h/0?nosuch=1", "the option 'nosuch'"),
        ("redis.url=redis://h/0?socket_timeout=abc", "the option 'socket_timeout'"),
        ("redis.url=redis://h/0?protocol=9", "the option 'protocol'"),
        ("redis.url=redis://h/0?planted-=1", "has what behind '?'"),
        ("redis.url=redis://user:123?planted=@h:6379/0", "has what behind '?'"),
        ("redis.url=rediss://h/0?ssl_cert_reqs=some", "required or none"),
        ("redis.url=sentinel://h/s?password=planted", "only sentinelUsername, sentinelPassword"),
        ("redis.url=unix:///x?db=1", "the option 'db'"),
        ("target.python=3.11.4", "3.11"),
        ("target.glibc=2.4", "2.35"),
        ("target.architecture=sparc", "aarch64"),
        ("sdists=never,numpy", "stand alone"),
        ("sdists=--pre", "names of projects"),
        ("minFreeSpace=2 gallons", "2GiB"),
        ("cache.maxSize=99999999TiB", "larger than any disk"),
        ("concurrency=0", "1 to 256"),
        ("concurrency=257", "1 to 256"),
        ("fetchTimeout=400d", "a year"),
        ("fetchTimeout=999ms", "from 1s to 1d"),
        ("lease=1ms", "from 1s to 1h"),
        ("lease=61m", "from 1s to 1h"),
        ("history=1s", "from 1m to 365d"),
        ("cache.maxSize=1000", "at least 1MiB"),
        ("cache.pageTtl=31d", "from 0s to 30d"),
        ("retry.maxAttempts=101", "1 to 100"),
        ("retry.maxBackoff=2d", "from 0s to 1d"),
        ("retry.minBackoff=10m", f"look also at {OURS}retry.maxBackoff"),
        ("redis.url=unix:", "unix:///"),
        ("redis.url=unix://planted@", "unix:///"),
        ("redis.url=rediss://h?ssl_cert_reqs=none&ssl_cert_reqs=required", "twice"),
        ("redis.url=sentinel://h/s?sentinelPassword=planted&sentinelPassword=x", "twice"),
        ("storage.uri=file:///var/%00x", "control character"),
        ("cache.directory=~/planted", "in full"),
        ("retry.maxBackoff=1s", f"{OURS}retry.minBackoff"),
        ("lease=0ms", "longer than zero"),
        ("api.host=*", "host name"),
        ("api.token=a b", "no spaces"),
        ("temporaryDirectory=a\x01b", "control character"),
        ("useOnlyConfigured=true", "set --moderne.agent.pypi[0].url"),
    ],
)
def test_rules_of_our_own_settings(setting: str, advice: str) -> None:
    bucket = [f"{OURS}storage.uri=s3://bucket"] if re.match(r"storage\.(?!uri)", setting) else []
    problem = only_problem([OURS + setting, *bucket])
    assert problem.name == OURS + setting.partition("=")[0]
    assert advice in problem.message
    assert "planted" not in str(problem)


def test_redis_url_and_parts_exclude_each_other() -> None:
    problem = only_problem([f"{OURS}redis.url=redis://h"], {"MODERNE_AGENT_VISUALIZATION_REDIS_HOST": "h"})
    assert "MODERNE_AGENT_VISUALIZATION_REDIS_HOST" in problem.message


def test_a_profile_and_keys_exclude_each_other() -> None:
    names = ("uri=s3://bucket", "profile=p", "accessKey=a", "secretKey=s")
    assert "keep the profile or the keys" in only_problem([f"{OURS}storage.{name}" for name in names]).message


@pytest.mark.parametrize("leaf", ["endpointUrl=https://s3.example.com", "profile=p"])
@pytest.mark.parametrize("uri", [(), (f"{OURS}storage.uri=file:///x",)])
def test_what_is_for_s3_needs_a_bucket(leaf: str, uri: tuple[str, ...]) -> None:
    """Else bundles would go to a directory without a word, since somebody forgot the address of the bucket."""
    problem = only_problem([f"{OURS}storage.{leaf}", *uri])
    assert problem.message.endswith(f"set {OURS}storage.uri to s3://bucket/prefix")
    assert load([f"{OURS}storage.{leaf}", f"{OURS}storage.uri=S3://bucket"], {}).storage.uri == "S3://bucket"


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [((1,), "index 0 is missing"), ((0, 2), "index 1 is"), ((0, 9), "1 to 8"), ((0, 999999), "1 to")],
)
def test_gaps_in_the_numbers(numbers: tuple[int, ...], missing: str) -> None:
    problem = only_problem(environment={f"MODERNE_AGENT_PYPI_{number}_URL": URL for number in numbers})
    assert problem.name == f"MODERNE_AGENT_PYPI_{numbers[-1]}_URL"
    assert missing in problem.message


def test_an_index_without_url() -> None:
    problem = only_problem(["--moderne.agent.pypi[1].skip-ssl=true"], {f"{ENV}URL": URL})
    assert problem.message == "index 1 has no URL; set --moderne.agent.pypi[1].url"
    empty = only_problem(environment={f"{ENV}URL": URL, "MODERNE_AGENT_PYPI_1_URL": ""})
    assert "is empty" in empty.message
    nameless = "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_SKIPSSL"
    assert only_problem(environment={nameless: "true"}).message.endswith("REPOSITORIES_PYPI_0_URI")


def test_an_index_of_empty_settings_is_none() -> None:
    assert len(load([], {f"{ENV}URL": URL, "MODERNE_AGENT_PYPI_1_USERNAME": ""}).indexes) == 2


def test_generations_do_not_mix() -> None:
    connector = "--moderne.recipe.marketplace.repositories.pypi[0].proxy.port"
    problem = next(one for one in problems([f"{connector}=1"], {f"{ENV}URL": URL}) if "generation" in one.message)
    assert problem.name == connector
    assert f"{ENV}URL" in problem.message
    switch = problems([f"--moderne.recipe.marketplace.repositories.pypi[0].uri={URL}", f"{OURS}useOnlyConfigured=true"])
    assert "remove it" in switch[0].message


def test_a_generation_that_another_hides_is_told_too() -> None:
    connector = "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_"
    hidden = {f"{connector}URI": URL, f"{connector}USERNAME": "u"}
    arguments = [f"{AGENT}url={URL}", f"{AGENT}username=me", f"{AGENT}password=planted"]
    problem = only_problem(arguments, hidden)
    assert (problem.source, problem.name) == ("environment", f"{connector}URI")
    assert "cannot be mixed with --moderne.agent.pypi[0].url" in problem.message
    emptied = problems([f"{AGENT}username="], {f"{connector}URI": URL, f"{connector}USERNAME": "u"})
    assert "cannot be mixed" in str(emptied)
    assert load([], {f"{connector}URI": URL, f"{ENV}USERNAME": ""}).indexes


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("MODERNE_AGENT_PYPI_0_PASWORD", "MODERNE_AGENT_PYPI_0_PASSWORD"),
        ("MODERNE_AGENT_PYPI_3_USER", "MODERNE_AGENT_PYPI_3_USERNAME"),
        ("MODERNE_AGENT_PYPI_URL", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_AGENT_PYPI_0_URI", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_AGENT_PYPI1_URL", "MODERNE_AGENT_PYPI_1_URL"),
        ("MODERNE_AGENT_PYPI_0_0_URL", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_AGENT_PYPI", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_AGENT_PIPY_0_URL", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURE", "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED"),
        ("MODERNE_AGENT_VISUALISATION_API_PORT", "MODERNE_AGENT_VISUALIZATION_API_PORT"),
        (
            "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_2_URL",
            "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_2_URI",
        ),
    ],
)
def test_unknown_variables_get_the_nearest_name(name: str, suggestion: str) -> None:
    problem = only_problem(environment={name: "planted-secret"})
    assert (problem.source, problem.name) == ("environment", name)
    assert problem.message == f"no such setting; did you mean {suggestion}?"


@pytest.mark.parametrize(
    ("argument", "suggestion"),
    [
        ("--moderne.agent.pypi[0].skip-tls", "--moderne.agent.pypi[0].skipSsl"),
        ("-Dmoderne.agent.pypi[1].token", "-Dmoderne.agent.pypi[1].bearerToken"),
        ("--moderne.agent.pypi.url", "--moderne.agent.pypi[0].url"),
        ("--moderne.agent.visualization.retries", "--moderne.agent.visualization.redis.ssl"),
        ("--moderne.agent.pypi[0", "--moderne.agent.pypi[0].url"),
        ("--moderne.agent.pypi[99999999].url", "--moderne.agent.pypi[0].url"),
        ("--moderne.agent.py-pi[0].ur", "--moderne.agent.pypi[0].url"),
    ],
)
def test_unknown_arguments_get_the_nearest_name(argument: str, suggestion: str) -> None:
    problem = only_problem([f"{argument}=planted-secret"])
    assert problem.name == argument
    assert suggestion in problem.message


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("--moderne.agent.pypi[0].passwordplanted", "--moderne.agent.pypi[0].password…"),
        ("--moderne.agent.pypi[0].bearer-tokenplanted", "--moderne.agent.pypi[0].bearer-token…"),
        ("--moderne.agent.pypi[0].paswordplanted", "--moderne.agent.pypi[0].…"),
        ("--moderne.agent.visualization.redis.urlplanted", "--moderne.agent.visualization.redis.url…"),
        ("--moderne.agent.visualization.storage.secretKeyplanted", "--moderne.agent.visualization.storage.secretKey…"),
        ("--moderne.agent.pypi[0].passwordplanted=x", "--moderne.agent.pypi[0].password…"),
        ("--modern.agent.pypi[0].passwordplanted", "--modern.agent.pypi[0].password…"),
    ],
)
def test_a_secret_that_is_glued_to_a_name_is_not_repeated(argument: str, shown: str) -> None:
    problem = only_problem([argument])
    assert problem.name == shown
    assert "planted" not in str(problem)


def test_a_secret_that_is_glued_to_a_variable_is_not_repeated() -> None:
    problem = only_problem(environment={f"{ENV}URL": URL, f"{ENV}PASSWORDplanted": ""})
    assert problem.name == f"{ENV}PASSWORD…"
    assert "planted" not in str(problem)


def test_a_number_that_no_index_has() -> None:
    problem = only_problem(environment={"MODERNE_AGENT_PYPI_12345678_URL": URL})
    assert "the number is too large; number the indexes from 0" in problem.message


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("VIZFETCH_CONF", "VIZFETCH_CONFIG"),
        ("VIZFETCH_CONFIG_FILE", "VIZFETCH_CONFIG"),
        ("vizfetch_config", "VIZFETCH_CONFIG"),
        ("VIZFETCH_REDIS_URL", "MODERNE_AGENT_VISUALIZATION_REDIS_URL"),
        ("VIZFETCH_PYPI_0_URL", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERN_AGENT_PYPI_0_URL", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_AGENTS_PYPI_0_URL", "MODERNE_AGENT_PYPI_0_URL"),
        ("MODERNE_PYPI_0_URL", "MODERNE_AGENT_PYPI_0_URL"),
    ],
)
def test_a_variable_that_was_meant_for_us(name: str, suggestion: str) -> None:
    problem = only_problem(environment={name: "planted"})
    assert problem.name == name
    assert problem.message.endswith(f"did you mean {suggestion}?")


def test_other_variables_are_no_concern_of_ours() -> None:
    others = ("VIZFETCH_VERSION", "VIZFETCH_SERVICE_HOST", "VIZFETCH_PORT_8080_TCP", "MODERNE_VISUALIZATIONS_VERSION")
    names = (*others, "VIZFETCH_API_SERVICE_PORT", "AGENT_PYPI_0_URL", "PYPI_0_URL")
    assert plain(load([], dict.fromkeys(names, "x"))) == plain(load([], {}))


@pytest.mark.parametrize(
    ("text", "name", "advice"),
    [
        ("moderne: oops\n", "moderne", "group of settings"),
        ("moderne:\n  agent: [planted]\n", "moderne.agent", "group of settings"),
        ("moderne:\n  - agent: {nickname: n}\n", "moderne", "group of settings"),
        ("moderne.agent.visualization: planted\n", "moderne.agent.visualization", "group of settings"),
        ("modern.agent.pypi[0].url: x\n", "modern.agent.pypi[0].url", "did you mean moderne.agent.pypi[0].url?"),
        ("agent:\n  pypi:\n  - url: x\n", "agent.pypi[0].url", "did you mean moderne.agent.pypi[0].url?"),
        ("pypi:\n  - url: x\n", "pypi[0].url", "did you mean moderne.agent.pypi[0].url?"),
        ("moderne.pypi[0].url: x\n", "moderne.pypi[0].url", "did you mean moderne.agent.pypi[0].url?"),
        ("moderne.visualization.lease: 1s\n", "moderne.visualization.lease", "moderne.agent.visualization.lease?"),
    ],
)
def test_what_stands_at_the_wrong_place_in_a_file(tmp_path: Path, text: str, name: str, advice: str) -> None:
    problem = only_problem(file=written(tmp_path, text))
    assert problem.name == name
    assert advice in problem.message
    assert "planted" not in str(problem)


def test_what_slips_into_a_name_is_not_repeated() -> None:
    found = problems(
        [
            "--moderne.agent.pypi[0].password:planted-secret",
            "--moderne.agent.pypi[0].password.planted-secret=x",
            "--moderne.agent.pypi[0].other-planted-secret=x",
            "--moderne.agent.pypi[0].password=planted-secret",
        ]
    )
    assert "planted" not in str(found)
    assert found[0].name == "--moderne.agent.pypi[0].password…"
    assert found[2].name == "--moderne.agent.pypi[0].other-***"


@pytest.mark.parametrize(
    ("leaf", "one", "other"),
    [
        ("SKIPSSL", "true", "TRUE"),
        ("SKIPSSL", "yes", "on"),
        ("READTIMEOUT", "60s", "1m"),
        ("PROXY_PORT", "080", " 80"),
        ("USERNAME", "", "  "),
    ],
)
def test_one_value_in_two_spellings_is_no_contradiction(leaf: str, one: str, other: str) -> None:
    environment = {f"{ENV}URL": URL, f"{ENV}{leaf}": one, f"moderne.agent.pypi[0].{leaf.replace('_', '.')}": other}
    environment |= {f"{ENV}PROXY_HOST": "proxy"} if "PROXY" in leaf else {}
    assert load([], environment).indexes


def test_a_secret_beside_a_file_that_says_the_same(tmp_path: Path) -> None:
    secret = input_file(tmp_path, "token", "planted-token\n")
    environment = {f"{ENV}URL": URL, f"{ENV}BEARERTOKEN": "planted-token", f"{ENV}BEARERTOKEN_FILE": str(secret)}
    assert load([], environment).indexes[0].bearer_token
    assert "second time" in only_problem(environment=environment | {f"{ENV}BEARERTOKEN": "planted-other"}).message


def test_one_name_twice_with_different_values() -> None:
    environment = {f"{ENV}URL": URL, f"{ENV}SKIPSSL": "true", f"{ENV}SKIP_SSL": "false"}
    problem = only_problem(environment=environment)
    assert problem.name == f"{ENV}SKIP_SSL"
    assert f"{ENV}SKIPSSL" in problem.message
    assert index(environment=environment | {f"{ENV}SKIP_SSL": "true"}).skip_ssl
    assert "second time" in only_problem(["--moderne.agent.nickname=a", "--moderne.agent.nickname=b"]).message


def test_the_second_place_in_a_file_names_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, "moderne.agent.nickname: a\nmoderne:\n  agent: {nickname: b}\n")
    problem = only_problem(file=path)
    assert problem.line == 3
    assert "in line 1" in problem.message


def test_an_overridden_wrong_value_does_no_harm() -> None:
    assert index([f"{AGENT}readTimeout=5s"], {f"{ENV}READTIMEOUT": "soon"}).read_timeout_seconds == 5


def test_what_can_be_read_about_the_machine_is_there_whatever_else_is_wrong(tmp_path: Path) -> None:
    arguments = [f"{OURS}minFreeSpace=1GiB", f"{OURS}target.python=soon", f"{OURS}cache.directory={tmp_path}"]
    with pytest.raises(SettingsError) as caught:
        load(arguments, {f"{ENV}USERNAME": "u"})
    machine = caught.value.machine
    assert machine
    assert (machine.min_free_space_bytes, machine.cache.directory, machine.target.python) == (2**30, tmp_path, "3.11")


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "moderne.agent.visualization.lease: never\n")
    with pytest.raises(SettingsError) as caught:
        load(
            [f"{AGENT}skipSsl=perhaps", "-Dmoderne.agent.pypi[0].proxy.host=proxy"],
            {f"{ENV}URL": "https://me:planted@a", "MODERNE_AGENT_PYPI_2_BEARERTOKEN": "planted", f"{ENV}UR": "planted"},
            file=path,
        )
    sources = {problem.source for problem in caught.value.problems}
    assert sources == {"argument", "system property", "environment", "vizfetch.yml"}
    text = str(caught.value)
    assert text.startswith(f"{len(caught.value.problems)} problems in the settings:")
    assert len(text.splitlines()) == len(caught.value.problems) + 1 == 8
    assert "planted" not in text + repr(caught.value)


# --- where each setting came from


def test_trace_tells_value_and_origin(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("planted")
    file = written(tmp_path, "moderne.agent.visualization.redis.url: redis://u:planted@h:1/0\n")
    reading = read(
        [f"{AGENT}skip-ssl=true", f"{AGENT}bearerTokenFile={secret}"],
        {f"{ENV}URL": URL, "MODERNE_AGENT_VISUALIZATION_API_TOKEN": "planted"},
        file=file,
    )
    rows = {row.name: row for row in reading.effective}
    assert rows["moderne.agent.pypi[0].url"].value == URL
    assert rows["moderne.agent.pypi[0].url"].source == "environment"
    assert rows["moderne.agent.pypi[0].url"].written == f"{ENV}URL"
    assert rows["moderne.agent.pypi[0].skipSsl"].written == f"{AGENT}skip-ssl"
    assert rows["moderne.agent.pypi[0].bearerToken"].value == "***"
    assert rows["moderne.agent.pypi[0].bearerToken"].secret_file == secret
    redis = rows["moderne.agent.visualization.redis.url"]
    assert (redis.value, redis.source, redis.line) == ("redis://***@h:1/0", "vizfetch.yml", 1)
    assert rows["moderne.agent.pypi[0].readTimeout"].value == "60s"
    assert rows["moderne.agent.pypi[0].readTimeout"].source == "default"
    assert rows["public"].value == PYPI_SIMPLE_ENDPOINT
    assert rows["moderne.agent.nickname"].value == reading.settings.nickname
    assert "planted" not in repr(reading)


def test_trace_uses_the_names_of_the_generation() -> None:
    rows = trace([f"--moderne.recipe.marketplace.repositories.pypi[0].uri={URL}"], {})
    names = [row.name for row in rows]
    assert "moderne.recipe.marketplace.repositories.pypi[0].uri" in names
    assert not any("agent.pypi" in name for name in names)
    assert next(row.value for row in rows if row.name.endswith("useOnlyConfigured")) == "true"
