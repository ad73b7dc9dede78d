"""Which index serves a project, and what is said of one that cannot be had."""

from datetime import UTC, datetime, timedelta
from email.message import Message

import pytest

from config.settings import Target
from jobs.errors import ErrorKind
from tests.support.index_server import JSON_TYPE, Status
from tests.worker.gateway.conftest import (
    PURE,
    MakeGateway,
    MakeIndex,
    download,
    get,
    index_settings,
    page,
    read,
    tiny_wheel,
)
from worker.gateway.errors import GatewayError
from worker.gateway.pages import lens
from worker.gateway.record import Availability
from worker.gateway.startup import Rules

NEWER = "demo-99.0-py3-none-any.whl"


def filenames(answer_files: list[dict[str, object]]) -> list[object]:
    return [file["filename"] for file in answer_files]


def test_the_first_index_that_has_it_serves_it(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    private, public = make_index(), make_index()
    private.add(PURE, tiny_wheel("demo", "1.0"))
    public.add(NEWER, tiny_wheel("demo", "99.0"))
    with make_gateway(index_settings(private), index_settings(public, 1)).session() as session:
        assert filenames(page(session).json()["files"]) == [PURE]
        assert download(session, NEWER).status_code == 404
        assert session.record().projects[0].index == "pypi[0]"
    assert public.seen() == []


@pytest.mark.parametrize("status", [404, 410])
def test_not_here_passes_on(status: int, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    private, public = make_index(), make_index()
    private.misbehave("/", Status(status))
    public.add(PURE, tiny_wheel("demo", "1.0"))
    with make_gateway(index_settings(private), index_settings(public, 1)).session() as session:
        assert filenames(page(session).json()["files"]) == [PURE]
        assert download(session).status_code == 200
        record = session.record()
    assert record.incidents == ()
    assert [project.index for project in record.projects] == ["pypi[1]"]
    assert record.files[0].index == "pypi[1]"
    assert len(private.seen()) == 1


def test_nobody_has_it(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(make_index()), index_settings(make_index(), 1)).session() as session:
        assert page(session).status_code == 404
        record = session.record()
    assert record.incidents == ()
    assert [(project.name, project.index) for project in record.projects] == [("demo", None)]


def test_pinned_to_one_index(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    first, second = make_index(), make_index()
    first.add(PURE, tiny_wheel("demo", "1.0"))
    second.add(NEWER, tiny_wheel("demo", "99.0"))
    gateway = make_gateway(index_settings(first), index_settings(second, 1))
    with gateway.session("pypi[1]") as session:
        assert filenames(page(session).json()["files"]) == [NEWER]
        assert page(session, "other").status_code == 404
    assert first.seen() == []
    with pytest.raises(GatewayError, match=r"pypi\[7\]"), gateway.session("pypi[7]"):
        pass


def test_a_task_sees_one_state_of_the_world(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, tiny_wheel("demo", "1.0"))
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    with gateway.session() as early:
        assert len(page(early).json()["files"]) == 1
        index.add("demo-2.0-py3-none-any.whl", tiny_wheel("demo", "2.0"))
        assert len(page(early).json()["files"]) == 1
        with gateway.session() as late:
            assert len(page(late).json()["files"]) == 2


def test_pages_are_kept_for_a_while_and_shared(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, tiny_wheel("demo", "1.0"))
    gateway = make_gateway(index_settings(index))
    for _ in range(3):
        with gateway.session() as session:
            page(session)
            page(session, "absent")
    assert len(index.seen("/simple/demo/")) == 1
    assert len(index.seen("/simple/absent/")) == 1


def test_a_listed_file_that_is_gone_has_the_page_fetched_anew(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, tiny_wheel("demo", "1.0"))
    gateway = make_gateway(index_settings(index))
    with gateway.session() as session:
        page(session)
        index.misbehave("/files/", Status(404))
        assert download(session).status_code == 502
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.SERVER_ERROR
    with gateway.session() as session:
        page(session)
    assert len(index.seen("/simple/demo/")) == 2


def test_why_a_version_cannot_be_had(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add("demo-1.0-py3-none-any.whl", b"1")
    index.add("demo-2.0.tar.gz", b"2")
    index.add("demo-3.0-cp311-cp311-win_amd64.whl", b"3")
    index.add("demo-3.0.tar.gz", b"3")
    index.add("demo-4.0-py3-none-any.whl", b"4", requires_python=">=3.12")
    index.add("demo-5.0-cp312-cp312-manylinux_2_28_x86_64.whl", b"5")
    index.add("demo-6.0-cp311-cp311-manylinux_2_39_x86_64.whl", b"6")
    index.add("demo-7.0-cp39-abi3-manylinux2014_x86_64.whl", b"7")
    index.add("demo-not_a_version-py3-none-any.whl", b"8")
    index.add("demo-9.0.tar.gz", b"9", requires_python="<3.8")
    with make_gateway(index_settings(index)).session() as session:
        files = page(session).json()["files"]
        [project] = session.record().projects
    assert project.versions == {
        "1.0": Availability.OFFERED,
        "2.0": Availability.SOURCE_ONLY,
        "3.0": Availability.OTHER_PLATFORM,
        "4.0": Availability.OTHER_PYTHON,
        "5.0": Availability.OTHER_PYTHON,
        "6.0": Availability.OTHER_PLATFORM,
        "7.0": Availability.OFFERED,
        "9.0": Availability.OTHER_PYTHON,
    }
    assert [file["filename"].split("-")[1] for file in files] == ["1.0", "4.0", "7.0"]


def test_targets_do_not_mix(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add("demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", b"1")
    index.add("demo-1.0-cp311-cp311-manylinux_2_28_aarch64.whl", b"2")
    gateway = make_gateway(index_settings(index))
    seen = {}
    for architecture in ("x86_64", "aarch64"):
        target = Target.model_validate({"architecture": architecture})
        with gateway.session(target=target) as session:
            seen[architecture] = filenames(page(session).json()["files"])
    assert seen == {architecture: [f"demo-1.0-cp311-cp311-manylinux_2_28_{architecture}.whl"] for architecture in seen}
    assert len(index.seen()) == 1


def test_names_are_normalised(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add("my_demo-1.0-py3-none-any.whl", b"1")
    with make_gateway(index_settings(index)).session() as session:
        for name in ("my-demo", "My_Demo", "my.demo", "MY--demo"):
            assert len(page(session, name).json()["files"]) == 1
        assert get(session, "simple/no%20name/").status_code == 404
        assert get(session, "simple/").status_code == 404
        assert [project.name for project in session.record().projects] == ["my-demo"]
    assert [request.path for request in index.seen()] == ["/simple/my-demo/"]


def test_files_too_young_are_invisible(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    now = datetime.now(UTC)
    for version, age in (("1.0", timedelta(days=4)), ("2.0", timedelta(days=2)), ("3.0", None)):
        time = None if age is None else (now - age).isoformat()
        index.add(f"demo-{version}-py3-none-any.whl", tiny_wheel("demo", version), upload_time=time)
    three_days = 3 * 86400
    seen = {}
    for unknown in ("trust", "refuse"):
        rules = Rules.model_validate({"min_package_age_seconds": three_days, "min_package_age_unknown": unknown})
        with make_gateway(index_settings(index), rules=rules).session() as session:
            seen[unknown] = filenames(page(session).json()["files"])
            assert download(session, "demo-2.0-py3-none-any.whl").status_code == 404
            [project] = session.record().projects
        assert project.versions["2.0"] is Availability.TOO_NEW
        assert project.versions["3.0"] is (Availability.OFFERED if unknown == "trust" else Availability.AGE_UNKNOWN)
    assert seen == {"trust": [PURE, "demo-3.0-py3-none-any.whl"], "refuse": [PURE]}


def test_html_pages_tell_no_age(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index(forms=("html",))
    index.add(PURE, tiny_wheel("demo", "1.0"))
    with make_gateway(index_settings(index), rules=Rules(min_package_age_seconds=60)).session() as session:
        assert filenames(page(session).json()["files"]) == []
        assert session.record().projects[0].versions == {"1.0": Availability.AGE_UNKNOWN}


def test_a_young_file_comes_of_age(make_index: MakeIndex) -> None:
    """A view of a page belongs to its minute, however long the page itself is kept."""
    index = make_index()
    index.add(PURE, tiny_wheel("demo", "1.0"), upload_time=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    page_read = read("demo", index.url, JSON_TYPE, index.answer("/simple/demo", accepting_json()).body)
    rules = Rules(min_package_age_seconds=3500)
    assert page_read.view(lens(Target(), rules, "demo")).files
    assert not page_read.view(lens(Target(), Rules(min_package_age_seconds=3700), "demo")).files
    for seconds in range(3500, 4500, 100):
        page_read.view(lens(Target(), Rules(min_package_age_seconds=seconds), "demo"))
    assert page_read.view(lens(Target(), rules, "demo")).files


def accepting_json() -> Message:
    headers = Message()
    headers["Accept"] = JSON_TYPE
    return headers


@pytest.mark.parametrize("form", ["json", "html"])
def test_quarantined_projects_offer_nothing(form: str, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index(forms=(form,))
    index.add(PURE, tiny_wheel("demo", "1.0"))
    index.add("old-1.0-py3-none-any.whl", tiny_wheel("old", "1.0"))
    index.project_status = {
        "demo": {"status": "quarantined", "reason": 'malware "x" & co'},
        "old": {"status": "archived"},
    }
    with make_gateway(index_settings(index)).session() as session:
        shown = page(session).json()
        old = page(session, "old").json()
        projects = {project.name: project for project in session.record().projects}
        as_html = get(session, "simple/demo/", Accept="text/html").text
    assert (shown["files"], shown["project-status"]) == ([], index.project_status["demo"])
    assert '<meta name="pypi:project-status" content="quarantined">' in as_html
    assert (len(old["files"]), old["project-status"]) == (1, {"status": "archived"})
    assert projects["demo"].status == 'quarantined: malware "x" & co'
    assert projects["demo"].versions == {"1.0": Availability.QUARANTINED}
    assert projects["old"].versions == {"1.0": Availability.OFFERED}


@pytest.mark.parametrize(
    ("sdists", "visible"), [("never", set()), ("allow", {"demo", "other"}), (("other",), {"other"})]
)
def test_source_distributions(
    sdists: str | tuple[str, ...], visible: set[str], make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    for name in ("demo", "other"):
        index.add(f"{name}-1.0.tar.gz", b"1")
        index.add(f"{name}-1.0.tar.bz2", b"2")
        index.add(f"{name}-1.0.exe", b"3")
    rules = Rules.model_validate({"sdists": sdists})
    with make_gateway(index_settings(index), rules=rules).session() as session:
        for name in ("demo", "other"):
            files = page(session, name).json()["files"]
            assert filenames(files) == ([f"{name}-1.0.tar.gz"] if name in visible else [])
            assert all("core-metadata" not in file for file in files)
        record = session.record()
    expected = {
        name: Availability.OFFERED if name in visible else Availability.SOURCE_ONLY for name in ("demo", "other")
    }
    assert {project.name: project.versions["1.0"] for project in record.projects} == expected
