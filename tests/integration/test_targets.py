"""Jobs that name a target of their own."""

from pathlib import Path

from tests.support.command import Deployment
from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel


def test_each_entry_gets_wheels_for_its_own_target(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    """Whatever glibc this machine has: an older target never gets the wheel that needs a newer one."""
    for glibc in ("2_28", "2_34"):
        tag = f"cp311-cp311-manylinux_{glibc}_x86_64"
        wheel = build_wheel(tmp_path / "made", "acme-native", tag=tag, visualizations=["bars"])
        index.add(wheel.name, wheel)
    manifest = tmp_path / "wanted.yml"
    manifest.write_text(
        "version: 1\nvisualizations:\n"
        '  - {package: acme-native, target: {glibc: "2.31"}}\n'
        "  - {package: acme-native}\n"
        '  - {package: acme-native, target: {glibc: "2.17"}}\n'
    )
    done = machine.run("fetch", "-r", str(manifest), "--out", str(tmp_path / "out"), "--json")
    jobs = done.document["jobs"]
    wheels = [job["bundle"] and job["bundle"]["wheels"] for job in jobs]
    assert wheels == [
        ["acme_native-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"],
        ["acme_native-1.0-cp311-cp311-manylinux_2_34_x86_64.whl"],
        None,
    ]
    assert (done.exit_code, jobs[2]["error"]["kind"]) == (1, "no_compatible_wheel")
    listed = machine.run(
        "list", "--json", f"--moderne.agent.visualization.storage.uri={(tmp_path / 'out').as_uri()}"
    ).document
    assert {each["target"]["glibc"] for each in listed} == {"2.31", "2.35"}


def test_one_machine_refuses_at_once_what_would_wait_for_another(machine: Deployment, tmp_path: Path) -> None:
    manifest = tmp_path / "wanted.yml"
    manifest.write_text(
        "version: 1\nvisualizations:\n"
        '  - {package: acme-charts, target: {python: "3.12"}}\n'
        "  - {package: acme-maps, target: {architecture: aarch64}}\n"
    )
    done = machine.run("fetch", "-r", str(manifest), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "acme-charts: its target has python 3.12, and this machine serves only 3.11" in done.errors
    assert "acme-maps: its target has architecture aarch64" in done.errors


def test_a_target_that_cannot_be_is_refused_with_its_place(machine: Deployment, tmp_path: Path) -> None:
    manifest = tmp_path / "wanted.yml"
    manifest.write_text("version: 1\nvisualizations:\n  - package: a\n    target: {glibc: 2.31, libc: musl}\n")
    done = machine.run("fetch", "-r", str(manifest))
    assert done.exit_code == 2
    assert "visualizations.0.target.glibc" in done.errors
    assert "visualizations.0.target.libc" in done.errors


def test_an_installation_is_tried_on_request(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    broken = build_wheel(
        tmp_path / "made", "acme-broken", visualizations=["bars"], files={"acme_broken/__init__.py": b"1 / 0"}
    )
    index.add(broken.name, broken)
    strict = Deployment({**machine.variables, "MODERNE_AGENT_VISUALIZATION_VERIFY": "install"}, machine.directory)
    done = strict.run("fetch", "acme-charts", "acme-broken", "--out", str(tmp_path / "out"), "--json")
    jobs = {job["requirement"]: job for job in done.document["jobs"]}
    assert jobs["acme-charts"]["state"] == "published"
    assert jobs["acme-broken"]["error"]["kind"] == "broken_wheel"
    assert "ZeroDivisionError" in jobs["acme-broken"]["error"]["message"]
    assert machine.run("fetch", "acme-broken", "--out", str(tmp_path / "out")).exit_code == 0
