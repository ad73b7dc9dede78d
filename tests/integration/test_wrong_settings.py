"""Wrong configurations, with the exact words that a user reads."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from config.settings import RedisSettings
from tests.support.command import Deployment
from tests.support.index_server import Authority, IndexServer
from tests.support.planted import input_file

INDEX = "MODERNE_AGENT_PYPI_0_"
OURS = "MODERNE_AGENT_VISUALIZATION_"
URL = {f"{INDEX}URL": "https://pypi.example.com/simple"}


@dataclass(frozen=True)
class Case:
    """What somebody wrote, and what they are told."""

    told: str
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    file: str | None = None


CASES = {
    "half of basic auth": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   environment: MODERNE_AGENT_PYPI_0_USERNAME: needs MODERNE_AGENT_PYPI_0_PASSWORD; set both or none
""",
        URL | {f"{INDEX}USERNAME": "alice"},
    ),
    "basic auth and a token": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   argument: --moderne.agent.pypi[0].bearerToken: cannot be used together with \
--moderne.agent.pypi[0].username; keep the token or basic auth
""",
        arguments=(
            "--moderne.agent.pypi[0].url=https://pypi.example.com/simple",
            "--moderne.agent.pypi[0].username=alice",
            "--moderne.agent.pypi[0].password=planted-password",
            "--moderne.agent.pypi[0].bearerToken=planted-token",
        ),
    ),
    "credentials in the URL": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   environment: MODERNE_AGENT_PYPI_0_URL: must not hold credentials; remove them and set username and password
""",
        {f"{INDEX}URL": "https://alice:planted-password@pypi.example.com/simple"},
    ),
    "a proxy with a scheme and without a port": Case(
        """\
vizfetch: 2 problems in the settings:
vizfetch:   environment: MODERNE_AGENT_PYPI_0_PROXY_HOST: must be the host name alone, without a scheme; remove \
everything up to '://'
vizfetch:   environment: MODERNE_AGENT_PYPI_0_PROXY_HOST: needs MODERNE_AGENT_PYPI_0_PROXY_PORT; set both or none
""",
        URL | {f"{INDEX}PROXY_HOST": "http://proxy.example.com"},
    ),
    "a gap in the numbers": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   environment: MODERNE_AGENT_PYPI_3_URL: indexes 1 to 2 are missing before it; number the indexes from 0 \
without gaps
""",
        URL | {"MODERNE_AGENT_PYPI_3_URL": "https://other.example.com/simple"},
    ),
    "a misspelled name": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   environment: MODERNE_AGENT_PYPI_0_CONECTTIMEOUT: no such setting; did you mean \
MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT?
""",
        URL | {f"{INDEX}CONECTTIMEOUT": "30s"},
    ),
    "two generations of names": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   system property: -Dmoderne.recipe.marketplace.repositories.pypi[1].uri: cannot be mixed with \
MODERNE_AGENT_PYPI_0_URL (environment); use one generation of names for all indexes
""",
        URL,
        ("-Dmoderne.recipe.marketplace.repositories.pypi[1].uri=https://other.example.com/simple",),
    ),
    "a time without a unit, no time, and no boolean": Case(
        """\
vizfetch: 3 problems in the settings:
vizfetch:   environment: MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT: a duration needs a unit; write for example 30s, or 30ms \
if milliseconds are meant
vizfetch:   environment: MODERNE_AGENT_PYPI_0_READTIMEOUT: must be longer than zero; write for example 30s
vizfetch:   environment: MODERNE_AGENT_PYPI_0_SKIPSSL: neither true nor false; write one of them
""",
        URL | {f"{INDEX}CONNECTTIMEOUT": "30", f"{INDEX}READTIMEOUT": "0s", f"{INDEX}SKIPSSL": "maybe"},
    ),
    "only configured indexes, and none configured": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   environment: MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED: leaves no index, since none is configured; \
set MODERNE_AGENT_PYPI_0_URL, or set this to false
""",
        {f"{OURS}USEONLYCONFIGURED": "true"},
    ),
    "one setting twice in two spellings": Case(
        """\
vizfetch: 1 problem in the settings:
vizfetch:   argument: --moderne.agent.pypi[0].skip-ssl: set a second time, with another value than \
--moderne.agent.pypi[0].skipSsl; keep one of them
""",
        URL,
        ("--moderne.agent.pypi[0].skipSsl=true", "--moderne.agent.pypi[0].skip-ssl=false"),
    ),
    "much in a file": Case(
        """\
vizfetch: 4 problems in the settings:
vizfetch:   vizfetch.yml line 4: moderne.agent.pypi[0].urll: no such setting; did you mean moderne.agent.pypi[0].url?
vizfetch:   vizfetch.yml line 8: moderne.agent.visualization.storage.uri: must look like file:///directory or \
s3://bucket/prefix
vizfetch:   vizfetch.yml line 5: moderne.agent.pypi[0].password: index 0 has no URL; set moderne.agent.pypi[0].url
vizfetch:   vizfetch.yml line 5: moderne.agent.pypi[0].password: needs moderne.agent.pypi[0].username; set both or none
""",
        file="""\
moderne:
  agent:
    pypi:
      - urll: https://pypi.example.com/simple
        password: planted-password
    visualization:
      storage:
        uri: /var/bundles
""",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_said_of_wrong_settings(case: Case, tmp_path: Path) -> None:
    arguments = list(case.arguments)
    if case.file:
        arguments += ["--config", str(input_file(tmp_path, "vizfetch.yml", case.file))]
    done = Deployment(case.variables, tmp_path).run("worker", *arguments)
    assert (done.exit_code, done.output, done.errors) == (78, "", case.told)


# ---- what only a look shows


def changed(deployment: Deployment, **variables: str) -> Deployment:
    nothing_listens = {f"{OURS}API_PORT": "0"}  # what stands in the way of a port would be said too
    return Deployment({**deployment.variables, **nothing_listens, **variables}, deployment.directory)


def test_another_python_than_the_target_s(deployment: Deployment, index: IndexServer) -> None:
    done = changed(deployment, MODERNE_AGENT_VISUALIZATION_TARGET_PYTHON="3.12").run("worker")
    lines = done.errors.splitlines()
    assert (done.exit_code, done.output) == (78, "")
    assert lines[0] == "vizfetch: this machine is not fit for fetching:"
    assert lines[1] == (
        "vizfetch:   interpreter: Python 3.11 runs here, but moderne.agent.visualization.target.python is 3.12. "
        "Run this agent with Python 3.12, or change the target."
    )
    assert lines[2].startswith("vizfetch:   python3 in the shell: python3 is Python 3.11 (")
    assert lines[2].endswith("Let PATH find Python 3.12 first, or change the target.")
    assert index.seen() == []


def test_a_wrong_password(deployment: Deployment, index: IndexServer) -> None:
    done = changed(deployment, MODERNE_AGENT_PYPI_0_PASSWORD="planted-wrong").run("worker")
    assert (done.exit_code, done.output) == (78, "")
    assert done.errors == (
        "vizfetch: not everything that a worker needs can be used:\n"
        f"vizfetch:   index pypi[0]: credentials: {index.url}/vizfetch-connectivity-check/ answered 401 Unauthorized. "
        "Check moderne.agent.pypi[0].username and moderne.agent.pypi[0].password: the index does not accept them.\n"
    )


def test_a_self_signed_certificate_and_a_redis_that_is_away(deployment: Deployment) -> None:
    with IndexServer(tls=Authority().context()) as secured:
        done = changed(
            deployment,
            MODERNE_AGENT_PYPI_1_URL=secured.url,
            MODERNE_AGENT_VISUALIZATION_REDIS_URL="redis://:planted-redis-password@127.0.0.1:1/0",
        ).run("worker")
    assert (done.exit_code, done.output) == (69, "")
    assert done.errors == (
        "vizfetch: not everything that a worker needs can be used:\n"
        f"vizfetch:   index pypi[1]: TLS: {secured.url}: TLS failed: [SSL: CERTIFICATE_VERIFY_FAILED] certificate "
        "verify failed: unable to get local issuer certificate. Have the index's authority trusted: install it in the "
        "system's store, or name its file in REQUESTS_CA_BUNDLE. For a self-signed certificate, "
        "moderne.agent.pypi[1].skipSsl=true turns verification off.\n"
        "vizfetch:   Redis: connection: redis://***@127.0.0.1:1/0: Connection refused. Check "
        "moderne.agent.visualization.redis.url, or moderne.agent.visualization.redis.host and its siblings, and that "
        "Redis runs; if it speaks TLS, the URL begins with rediss://.\n"
    )


@pytest.mark.parametrize("command", [("submit", "acme"), ("status",), ("scheduler",), ("agents",), ("cancel", "x")])
def test_a_wrong_password_for_redis(redis_settings: RedisSettings, tmp_path: Path, command: tuple[str, ...]) -> None:
    """As for a worker, whose exit code is 78 too: waiting does not mend it."""
    port = urlsplit(redis_settings.url.get_secret_value()).port
    for credentials in (":planted-wrong@", "", "nobody:planted-wrong@"):
        variables = {f"{OURS}REDIS_URL": f"redis://{credentials}127.0.0.1:{port}/0"}
        done = Deployment(variables, tmp_path).run(*command, seconds=60)
        assert (done.exit_code, done.output) == (78, "")
        assert "Check the user and the password in moderne.agent.visualization.redis.url" in done.errors


def test_a_redis_that_is_away_is_no_matter_of_settings(tmp_path: Path) -> None:
    done = Deployment({f"{OURS}REDIS_URL": "redis://:planted-password@127.0.0.1:1/0"}, tmp_path).run("status")
    assert done.exit_code == 69


def test_authorities_that_are_not_there(deployment: Deployment) -> None:
    """With an index that is not asked at the start, the gateway is the first that needs them."""
    done = changed(
        deployment,
        MODERNE_AGENT_PYPI_0_SKIPVALIDATECONNECTIVITY="true",
        SSL_CERT_FILE="/nowhere/ca.pem",
    ).run("worker")
    assert (done.exit_code, done.output) == (78, "")
    assert done.errors == (
        "vizfetch: /nowhere/ca.pem, named by REQUESTS_CA_BUNDLE or SSL_CERT_FILE, cannot be read as certificates: "
        "[Errno 2] No such file or directory\n"
    )
