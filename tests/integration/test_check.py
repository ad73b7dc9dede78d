"""``vizfetch check``: everything that holds and everything that does not, at once."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.packages import PASSWORD
from tests.support.command import Deployment, Finished
from tests.support.index_server import Authority, IndexServer, Stall

HOLDS, UNREACHABLE, WRONG = 0, 69, 78
CONTRACT = [
    "operating system",
    "C library",
    "architecture",
    "interpreter",
    "shell",
    "python3 in the shell",
    "python3 -m venv",
    "python3 -m pip",
    "temporary directory",
    "programs",
    "free space",
    "cache directory",
]


def changed(deployment: Deployment, **variables: str) -> Deployment:
    return Deployment({**deployment.variables, **variables}, deployment.directory)


def findings(done: Finished) -> dict[str, Any]:
    assert "Traceback" not in done.errors
    return {finding["subject"]: finding for finding in done.document["findings"]}


def test_where_everything_holds(deployment: Deployment, tmp_path: Path) -> None:
    done = deployment.run("check", "--json")
    assert done.exit_code == HOLDS, done.output
    found = findings(done)
    assert list(found) == ["settings", *CONTRACT, "index pypi[0]", "Redis", "store"]
    assert done.document["verdict"] == "holds"
    assert {finding["verdict"] for finding in found.values()} == {"holds"}
    assert list((tmp_path / "store").rglob("*")) == []
    told = deployment.run("check")
    assert (told.exit_code, told.errors) == (HOLDS, "")
    assert told.output.rstrip().endswith("everything holds")


def test_all_that_does_not_hold_is_told_in_the_time_of_the_slowest(
    deployment: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/simple/", Stall())
    (tmp_path / "file").touch()
    broken = changed(
        deployment,
        MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT="8s",
        MODERNE_AGENT_PYPI_0_READTIMEOUT="8s",
        MODERNE_AGENT_PYPI_1_URL=index.url,
        MODERNE_AGENT_PYPI_1_CONNECTTIMEOUT="8s",
        MODERNE_AGENT_PYPI_1_READTIMEOUT="8s",
        MODERNE_AGENT_PYPI_2_URL="http://127.0.0.1:1/simple",
        MODERNE_AGENT_VISUALIZATION_REDIS_URL="redis://:planted-redis@127.0.0.1:1/0",
        MODERNE_AGENT_VISUALIZATION_STORAGE_URI=(tmp_path / "file" / "store").as_uri(),
        MODERNE_AGENT_VISUALIZATION_MINFREESPACE="1024TiB",
        HTTPS_PROXY="http://proxy.example.com:3128",
    )
    begin = time.monotonic()
    done = broken.run("check", "--json")
    # Two that take eight seconds each, one after the other, would take sixteen: the rest is for a busy machine.
    assert time.monotonic() - begin < 15.5
    assert done.exit_code == WRONG
    found = findings(done)
    told = {name: (finding["verdict"], finding["step"]) for name, finding in found.items()}
    assert {name for name, (verdict, _) in told.items() if verdict != "holds"} == {
        "proxy variables",
        "free space",
        "index pypi[0]",
        "index pypi[1]",
        "index pypi[2]",
        "Redis",
        "store",
    }
    assert told["index pypi[0]"] == told["index pypi[1]"] == ("unreachable", "answer")
    assert told["index pypi[2]"] == told["Redis"] == ("unreachable", "connection")
    assert told["store"][0] == told["free space"][0] == "wrong"
    assert all(found[name]["advice"] for name, (verdict, _) in told.items() if verdict != "holds")


def test_a_service_that_is_away_is_another_exit_code_than_one_that_refuses(
    deployment: Deployment,
) -> None:
    away = changed(deployment, MODERNE_AGENT_PYPI_1_URL="http://127.0.0.1:1/simple")
    assert away.run("check").exit_code == UNREACHABLE
    refused = changed(deployment, MODERNE_AGENT_PYPI_0_PASSWORD="planted-wrong")
    done = refused.run("check")
    assert done.exit_code == WRONG
    assert "moderne.agent.pypi[0].password" in done.output


def test_an_index_that_need_not_be_validated_is_asked_all_the_same_and_no_reason_to_fail(
    deployment: Deployment,
) -> None:
    away = changed(
        deployment,
        MODERNE_AGENT_PYPI_1_URL="http://127.0.0.1:1/simple",
        MODERNE_AGENT_PYPI_1_SKIPVALIDATECONNECTIVITY="true",
    )
    done = away.run("check", "--json")
    assert done.exit_code == HOLDS
    finding = findings(done)["index pypi[1]"]
    assert (finding["verdict"], finding["required"]) == ("unreachable", False)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_variables_for_proxies_are_said_to_be_unused(deployment: Deployment, index: IndexServer, name: str) -> None:
    done = changed(deployment, **{name: "http://user:planted-proxy@127.0.0.1:1"}).run("check", "--json")
    assert done.exit_code == HOLDS
    finding = findings(done)["proxy variables"]
    assert finding["found"] == f"{name} is set, and not used"
    assert "moderne.agent.pypi[0].proxy.host" in finding["advice"]
    assert index.seen()


def test_a_certificate_of_a_company_s_own_authority(deployment: Deployment, tmp_path: Path) -> None:
    authority = Authority()
    with IndexServer(tls=authority.context()) as secured:
        unknown = changed(deployment, MODERNE_AGENT_PYPI_1_URL=secured.url)
        done = unknown.run("check", "--json")
        assert done.exit_code == UNREACHABLE
        assert "moderne.agent.pypi[1].skipSsl=true" in findings(done)["index pypi[1]"]["advice"]
        bundle = authority.write(tmp_path / "ca.pem")
        assert changed(unknown, REQUESTS_CA_BUNDLE=str(bundle)).run("check").exit_code == HOLDS
        assert changed(unknown, MODERNE_AGENT_PYPI_1_SKIPSSL="true").run("check").exit_code == HOLDS


def test_with_wrong_settings_the_machine_is_looked_at_and_nobody_asked(
    deployment: Deployment, index: IndexServer
) -> None:
    wrong = changed(deployment, MODERNE_AGENT_PYPI_0_BEARERTOKEN="planted-token", MODERNE_AGENT_PYPI_0_URI="x")
    done = wrong.run("check", "--json")
    assert done.exit_code == WRONG
    subjects = [finding["subject"] for finding in done.document["findings"]]
    assert subjects == ["settings", "settings", *CONTRACT]
    assert index.seen() == []
    told = wrong.run("check")
    assert (told.exit_code, told.errors) == (WRONG, "")
    assert "MODERNE_AGENT_PYPI_0_BEARERTOKEN" in told.output
    assert PASSWORD not in told.output


def test_people_on_a_narrow_terminal_lose_nothing(deployment: Deployment) -> None:
    away = changed(deployment, MODERNE_AGENT_PYPI_1_URL="http://127.0.0.1:1/simple", COLUMNS="80")
    words = away.run("check").output.split()
    for word in ("pypi[1]", "connection", "fails", "refused", "moderne.agent.pypi[1].url."):
        assert word in words


@pytest.mark.parametrize("name", ["SPRING_APPLICATION_JSON", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"])
def test_settings_in_variables_that_only_java_reads_are_pointed_at(deployment: Deployment, name: str) -> None:
    value = {"SPRING_APPLICATION_JSON": '{"moderne.agent.pypi[0].password": "planted-java"}'}
    written = value.get(name, "-Xmx4g -Dmoderne.agent.pypi[0].password=planted-java")
    done = changed(deployment, **{name: written}).run("check", "--json")
    assert done.exit_code == HOLDS
    finding = findings(done)["variables for Java"]
    assert name in finding["found"]
    assert not finding["required"]
    assert "planted" not in done.output
    assert "variables for Java" not in findings(changed(deployment, **{name: "-Xmx4g"}).run("check", "--json"))


def test_the_argument_list_of_an_agent_may_stay_as_it_is(deployment: Deployment) -> None:
    of_the_agent = ["--server.port=8080", "-Djavax.net.ssl.trustStorePassword=planted-store", "-Dhttps.proxyHost=h"]
    done = deployment.run(*of_the_agent, "check", "--json", "--spring.profiles.active=x")
    assert done.exit_code == 0, done.errors
    (told,) = [finding for finding in done.document["findings"] if finding["subject"] == "arguments for Java"]
    names = "--server.port, -Djavax.net.ssl.trustStorePassword, -Dhttps.proxyHost, --spring.profiles.active"
    assert (told["found"], told["required"]) == (f"{names}: not read here", False)
    assert "proxy.host" in told["advice"]
    assert deployment.run("status", *of_the_agent).exit_code == 0
