import re
from typing import Any

import pytest

from config.durations import parse_duration
from config.names import match_variable
from tests.deploy.files import ROOT, document

COMPOSE = document("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("scheduler", "worker", "cli")
ONCE = ("secrets", "bucket")
"""Services that do one thing and end."""
each_service = pytest.mark.parametrize("name", SERVICES)


def limits(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SERVICES[name]["deploy"]["resources"]["limits"]
    return found


@each_service
def test_nobody_is_root_or_can_become_more_than_it_is(name: str) -> None:
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service


@each_service
def test_the_root_file_system_is_read_only(name: str) -> None:
    assert SERVICES[name]["read_only"] is True


@each_service
def test_everything_has_limits(name: str) -> None:
    assert set(limits(name)) == {"cpus", "memory", "pids"}


@each_service
def test_images_are_pinned_by_a_tag(name: str) -> None:
    image, tag = SERVICES[name]["image"].split(":", 1)
    assert image
    assert tag not in {"", "latest", "main"}
    assert re.search(r"\d+\.\d+", tag)


@each_service
def test_what_goes_on_running_says_whether_it_is_well(name: str) -> None:
    check = SERVICES[name].get("healthcheck", {})
    if name in {*ONCE, "cli"}:
        assert check == {"disable": True}
    elif name in OURS:
        assert check == {}, "the image has one"
    else:
        assert check["test"][0] in {"CMD", "CMD-SHELL"}


@each_service
def test_everybody_waits_for_what_it_needs(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert how["condition"] == wanted


@pytest.mark.parametrize("name", OURS)
def test_settings_exist_and_secrets_come_by_file(name: str) -> None:
    mounted = {volume.split(":")[1]: volume.split(":")[2:] for volume in SERVICES[name]["volumes"]}
    for variable, value in SERVICES[name]["environment"].items():
        match = match_variable(variable)
        assert match is not None, f"{variable} is no setting"
        assert match.file == match.setting.secret, f"{variable} must come by file"
        if match.file:
            assert mounted[value.rsplit("/", 1)[0]] == ["ro"], f"{value} is not mounted"


@each_service
def test_no_value_looks_like_a_secret(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"(?i)password|secret|token|key", variable):
            assert variable.endswith("_FILE"), f"{variable} holds a secret"
            assert value.startswith("/run/secrets/")


def test_each_secret_is_written_by_one_service_and_read_by_those_who_need_it() -> None:
    volumes = [mount.split(":")[0] for mount in SERVICES["secrets"]["volumes"] if not mount.startswith(".")]
    readers = {
        volume: {
            name
            for name, service in SERVICES.items()
            if name != "secrets" and any(mount.startswith(f"{volume}:") for mount in service.get("volumes", []))
        }
        for volume in volumes
    }
    assert readers == {
        "redis-password": set(OURS),
        "valkey-users": {"valkey"},
        "s3-keys": {*OURS, "bucket"},
        "storage-identities": {"storage"},
        "api-token": set(OURS),
        "grafana-password": {"grafana"},
        "flower-passwords": {"flower"},
    }


def test_ports_are_open_on_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_redis_and_the_store_reach_nothing_outside() -> None:
    assert COMPOSE["networks"]["services"] == {"internal": True}
    assert SERVICES["valkey"]["networks"] == SERVICES["storage"]["networks"] == ["services"]


def test_redis_keeps_its_data_and_evicts_nothing() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "--aclfile" in command


def test_up_starts_neither_the_command_line_nor_the_profiles() -> None:
    started = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert started == {"scheduler", "worker", "valkey", "storage", *ONCE}
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", [])} == {
        "cli",
        "monitoring",
        "flower",
    }


def test_workers_scale() -> None:
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["worker"])


def test_a_worker_that_gives_its_jobs_back_has_time_for_it() -> None:
    assert "--drain" not in SERVICES["worker"]["command"]
    assert parse_duration(SERVICES["worker"]["stop_grace_period"]) >= 30


def test_every_volume_is_used_and_declared() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert {mount.split(":")[0] for mount in mounts if not mount.startswith(".")} == set(COMPOSE["volumes"])


def test_what_is_mounted_from_the_checkout_is_there() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", []) if mount.startswith(".")]
    assert [mount for mount in mounts if not (ROOT / mount.split(":")[0]).exists()] == []


def test_the_samples_fit() -> None:
    sample = document("deploy", "compose", "docker-compose.override.yml")
    assert set(sample["services"]) <= set(SERVICES)
    declared = set(sample["secrets"])
    assert all(set(service["secrets"]) <= declared for service in sample["services"].values())
    named = COMPOSE["x-vizfetch"]["env_file"]
    assert named == [{"path": "vizfetch.env", "required": False}]
