import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from config.durations import parse_duration
from config.names import SETTINGS, match_variable
from config.sizes import parse_size
from jobs.metrics import METRICS
from jobs.models import JobState, Priority
from tests.deploy.files import KUBERNETES, ROOT, document, resource, resources, variables

ENVIRONMENT = variables((KUBERNETES / "settings.env").read_text(encoding="utf-8"))
SERVICES = ("scheduler", "worker")
VERSIONS = ("1.29", "1.33", "1.37")
each_service = pytest.mark.parametrize("name", SERVICES)


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = resource("Deployment", f"vizfetch-{name}")["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    found: dict[str, Any] = pod(name)["containers"][0]
    return found


def setting(leaf: str) -> str:
    name = f"moderne.agent.visualization.{leaf}"
    variable = f"MODERNE_AGENT_VISUALIZATION_{leaf.upper().replace('.', '_')}"
    return ENVIRONMENT.get(variable) or next(found.default for found in SETTINGS if found.name == name)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_published_schemas_hold(version: str) -> None:
    for found in resources():
        if found["apiVersion"].startswith("keda.sh"):
            continue  # its schema comes with KEDA, not with Kubernetes
        kubernetes_validate.validate(found, version, strict=True)


def test_the_schemas_would_tell() -> None:
    broken = resource("Deployment", "vizfetch-worker")
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_all_is_in_the_base() -> None:
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(document("deploy", "kubernetes", "kustomization.yaml")["resources"])


@each_service
def test_nobody_is_root_or_writes_the_root_file_system(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(name)["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_service
def test_probes_ask_where_the_services_answer(name: str) -> None:
    found = container(name)
    assert found["startupProbe"]["httpGet"]["path"] == "/actuator/health/liveness"
    assert found["livenessProbe"]["httpGet"]["path"] == "/actuator/health/liveness"
    assert found["readinessProbe"]["httpGet"]["path"] == "/actuator/health/readiness"
    assert str(found["ports"][0]["containerPort"]) == setting("api.port")
    assert setting("api.host") == "0.0.0.0"  # noqa: S104 - kubelet asks from outside the pod


@each_service
def test_there_are_requests_and_limits(name: str) -> None:
    found = container(name)["resources"]
    assert set(found["requests"]) == set(found["limits"]) == {"cpu", "memory", "ephemeral-storage"}


def test_settings_exist_and_secrets_come_by_reference() -> None:
    for variable, value in ENVIRONMENT.items():
        match = match_variable(variable)
        assert match is not None, f"{variable} is no setting"
        assert match.file == match.setting.secret, f"{variable} must come by file"
        assert not match.file or value.startswith("/run/secrets/vizfetch/")
    assert not [found for found in resources() if found["kind"] == "Secret"]
    for name in SERVICES:
        assert "env" not in container(name)
        mounts = {mount["mountPath"]: mount for mount in container(name)["volumeMounts"]}
        assert mounts["/run/secrets/vizfetch"]["readOnly"] is True


def test_a_worker_has_the_time_to_finish_its_jobs() -> None:
    assert "--drain" in container("worker")["args"]
    assert pod("worker")["terminationGracePeriodSeconds"] >= parse_duration(setting("fetchTimeout")) + 60


def test_a_worker_may_write_where_its_settings_say() -> None:
    image = (KUBERNETES.parents[1] / "Dockerfile").read_text(encoding="utf-8")
    writable = {
        mount["mountPath"]: next(volume for volume in pod("worker")["volumes"] if volume["name"] == mount["name"])
        for mount in container("worker")["volumeMounts"]
    }
    for leaf in ("CACHE_DIRECTORY", "TEMPORARYDIRECTORY"):
        found = re.search(rf"MODERNE_AGENT_VISUALIZATION_{leaf}=(\S+)", image)
        assert found
        assert "emptyDir" in writable[found[1]]
    size = writable["/var/cache/vizfetch"]["emptyDir"]["sizeLimit"]
    assert parse_size(setting("cache.maxSize")) < parse_size(f"{size}B")


def test_the_overlay_in_the_documents_fits() -> None:
    documents = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(# kustomization\.yaml\n.*?)```", documents, re.DOTALL)
    assert found
    overlay, base = yaml.safe_load(found[1]), document("deploy", "kubernetes", "kustomization.yaml")
    (changed,), (settings,) = overlay["configMapGenerator"], base["configMapGenerator"]
    assert changed["name"] == settings["name"]
    assert changed["behavior"] == "merge"
    assert {line.split("=", 1)[0] for line in changed["literals"]} <= set(ENVIRONMENT)
    assert {image["name"] for image in overlay["images"]} == {image["name"] for image in base["images"]}
    named = re.findall(r"`([a-z0-9-]+)`", documents[documents.index("with a folder that has the files") :][:200])
    assert {value.rsplit("/", 1)[1] for value in ENVIRONMENT.values() if value.startswith("/run/")} == set(named)


def test_two_schedulers_of_which_one_stays() -> None:
    deployment = resource("Deployment", "vizfetch-scheduler")
    assert deployment["spec"]["replicas"] == 2
    assert resource("PodDisruptionBudget", "vizfetch-scheduler")["spec"]["minAvailable"] == 1


def test_workers_are_scaled_by_what_is_due() -> None:
    scaled = resource("ScaledObject", "vizfetch-worker")["spec"]
    assert scaled["scaleTargetRef"] == {"name": "vizfetch-worker"}
    assert "replicas" not in resource("Deployment", "vizfetch-worker")["spec"]
    modifiers = scaled["advanced"]["scalingModifiers"]
    assert modifiers["target"] == setting("concurrency")
    triggers = {trigger["name"]: trigger for trigger in scaled["triggers"]}
    assert sorted(modifiers["formula"].split(" + ")) == sorted(triggers)
    asked = {trigger["metadata"]["valueLocation"] for trigger in triggers.values()}
    due = {f'vizfetch_queue_due_jobs{{priority="{priority.value}"}}' for priority in Priority}
    assert asked == due | {f'vizfetch_jobs{{state="{JobState.RUNNING.value}"}}'}
    for trigger in triggers.values():
        assert trigger["type"] == "metrics-api"
        assert trigger["metadata"]["format"] == "prometheus"
        assert trigger["metadata"]["url"] == "http://vizfetch.vizfetch:8080/actuator/prometheus"
        selector = re.fullmatch(r'(\w+)\{(\w+)="\w+"\}', trigger["metadata"]["valueLocation"])
        assert selector
        metric = METRICS[selector[1]]
        assert (metric.shown_by, metric.series, metric.labels) == ("scheduler", (selector[1],), (selector[2],))


def test_the_service_leads_to_the_schedulers() -> None:
    service = resource("Service", "vizfetch")["spec"]
    labels = resource("Deployment", "vizfetch-scheduler")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_only_what_is_needed_may_be_reached() -> None:
    ingress, egress = (resource("NetworkPolicy", f"vizfetch-{way}")["spec"] for way in ("ingress", "egress"))
    assert (ingress["policyTypes"], egress["policyTypes"]) == (["Ingress"], ["Egress"])
    assert [port["port"] for rule in ingress["ingress"] for port in rule["ports"]] == [8080]
    assert {port["port"] for rule in egress["egress"] for port in rule["ports"]} == {53, 6379, 443}
