from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bundles.errors import BrokenWheel, StorageError
from jobs.errors import ErrorKind
from worker.errors import FetchError
from worker.gateway.record import Availability, Incident, Project, Record
from worker.judge import bundle_failure, judge, passed_over
from worker.pip import Outcome

CHARTS = Requirement("acme-charts==2.0")
WELL = Outcome(0, ())
NOTHING_SEEN = Record()


def failed(*lines: str) -> Outcome:
    return Outcome(1, lines)


def printed(directory: Path, exit_code: int, line: str) -> Outcome:
    """A pip that had much to say after this line."""
    log = directory / "log"
    log.write_text("\n".join(["Looking in indexes: x", line, *["Collecting acme-charts"] * 1000]))
    return Outcome.of(exit_code, log)


def verdict(outcome: Outcome, record: Record = NOTHING_SEEN) -> FetchError:
    with pytest.raises(FetchError) as caught:
        judge(CHARTS, outcome, record)
    return caught.value


def incident(kind: ErrorKind, index: str = "pypi[0]") -> Incident:
    return Incident(
        kind=kind,
        index=index,
        project="acme-base",
        url="https://127.0.0.1/simple/acme-base/",
        step="page",
        status=503,
        duration_seconds=1,
        attempts=3,
        message=f"{index} said no",
    )


def project(**versions: Availability) -> Record:
    spelled = {version.replace("v", "").replace("_", "."): found for version, found in versions.items()}
    return Record(projects=(Project(name="acme-charts", index="pypi[0]", versions=spelled),))


def test_a_download_without_incidents_is_well() -> None:
    judge(CHARTS, WELL, Record())


def test_an_incident_voids_the_result_even_when_pip_ends_well() -> None:
    found = verdict(WELL, Record(incidents=(incident(ErrorKind.SERVER_ERROR),)))
    assert (found.kind, found.index, found.message) == (ErrorKind.SERVER_ERROR, "pypi[0]", "pypi[0] said no")


def test_what_somebody_has_to_act_on_is_told_before_what_may_pass() -> None:
    incidents = (incident(ErrorKind.SERVER_ERROR), incident(ErrorKind.AUTHENTICATION, "pypi[1]"))
    assert verdict(WELL, Record(incidents=incidents)).kind is ErrorKind.AUTHENTICATION


def test_an_incident_counts_more_than_what_pip_makes_of_it() -> None:
    outcome = failed("ERROR: No matching distribution found for acme-charts==2.0")
    assert verdict(outcome, Record(incidents=(incident(ErrorKind.TLS),))).kind is ErrorKind.TLS


@pytest.mark.parametrize(
    ("availability", "kind"),
    [
        (Availability.OTHER_PLATFORM, ErrorKind.NO_COMPATIBLE_WHEEL),
        (Availability.SOURCE_ONLY, ErrorKind.NO_COMPATIBLE_WHEEL),
        (Availability.OTHER_PYTHON, ErrorKind.PYTHON_INCOMPATIBLE),
    ],
)
def test_a_version_that_is_there_but_unusable_is_said_to_be_so(availability: Availability, kind: ErrorKind) -> None:
    outcome = failed("ERROR: No matching distribution found for acme-charts==2.0")
    found = verdict(outcome, project(v1_0=Availability.OFFERED, v2_0=availability))
    assert (found.kind, found.index) == (kind, "pypi[0]")
    assert "2.0" in found.message


def test_a_version_that_is_not_there_is_not_found_among_those_that_are() -> None:
    outcome = failed("ERROR: No matching distribution found for acme-charts==2.0")
    found = verdict(outcome, project(**{f"v1_{number}": Availability.OFFERED for number in range(12)}))
    assert found.kind is ErrorKind.NOT_FOUND
    assert "It has 1.11, 1.10, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4 and 4 older ones." in found.message


def test_a_dependency_that_is_missing_is_blamed_on_who_needs_it() -> None:
    found = verdict(failed("ERROR: No matching distribution found for acme-base>=3 (from acme-charts)"))
    assert found.kind is ErrorKind.NOT_FOUND
    assert "acme-base, which `acme-charts==2.0` needs." in found.message


def test_who_needs_what_is_set_off_by_commas() -> None:
    found = project(v1_0=Availability.SOURCE_ONLY).projects[0]
    record = Record(projects=(found.model_copy(update={"name": "acme-base"}),))
    said = verdict(failed("ERROR: No matching distribution found for acme-base==1.0"), record)
    assert "satisfies `acme-base==1.0`, which `acme-charts==2.0` needs, has a wheel" in said.message


def test_a_conflict_is_explained_in_pip_s_words() -> None:
    outcome = failed(
        "ERROR: Cannot install a and b because these package versions have conflicting dependencies.",
        "The conflict is caused by:",
        "    a 1.0 depends on c==1",
        "    b 1.0 depends on c==2",
        "",
        "ERROR: ResolutionImpossible: for help visit somewhere",
    )
    found = verdict(outcome)
    assert found.kind is ErrorKind.RESOLUTION_CONFLICT
    assert found.message.endswith("a 1.0 depends on c==1; b 1.0 depends on c==2.")


def test_a_full_disk_is_recognised() -> None:
    outcome = failed("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
    assert verdict(outcome).kind is ErrorKind.DISK_FULL


def test_what_nobody_foresaw_is_internal_with_pip_s_last_words() -> None:
    found = verdict(failed("noise", "ERROR: something new"))
    assert (found.kind, "something new" in found.message) == (ErrorKind.INTERNAL, True)


def test_errors_of_bundle_and_store_have_their_kinds() -> None:
    assert bundle_failure(BrokenWheel("a.whl", ["torn"])).kind is ErrorKind.BROKEN_WHEEL
    assert bundle_failure(StorageError("write", "wheels/a", "refused")).kind is ErrorKind.STORAGE


@pytest.mark.parametrize(
    "line",
    [
        "Collecting evil @ http://127.0.0.1:9/evil-1.0.tar.gz (from acme-charts->-r /tmp/requirements.txt (line 2))",
        "Collecting evil@ git+https://127.0.0.1/evil (from acme-charts->-r /tmp/requirements.txt (line 2))",
        "Processing /etc/passwd (from acme-charts->-r /tmp/requirements.txt (line 2))",
    ],
)
@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_dependency_that_is_no_package_is_refused_whatever_pip_makes_of_it(
    line: str, exit_code: int, tmp_path: Path
) -> None:
    found = verdict(printed(tmp_path, exit_code, line))
    assert found.kind is ErrorKind.INVALID_REQUIREMENT
    assert "acme-charts needs `" in found.message


IGNORED = "WARNING: Ignoring version 2.0 of acme-charts since it has invalid metadata:"


def test_metadata_that_cannot_be_read_is_a_broken_wheel(tmp_path: Path) -> None:
    found = verdict(printed(tmp_path, 1, IGNORED))
    assert (found.kind, "acme-charts 2.0" in found.message) == (ErrorKind.BROKEN_WHEEL, True)


def test_a_version_that_pip_left_out_for_an_older_one_is_told(tmp_path: Path) -> None:
    outcome = printed(tmp_path, 0, IGNORED)
    judge(CHARTS, outcome, NOTHING_SEEN)
    told = ("acme-charts 2.0 was passed over: nobody can read its metadata",)
    assert passed_over(outcome, {"acme-charts", "acme-base"}) == told
    assert passed_over(outcome, {"acme-base"}) == ()


def test_what_was_yanked_is_said_to_be_so_with_the_way_to_take_it() -> None:
    outcome = failed(
        "ERROR: Ignored the following yanked versions: 1.0, 2.0",
        "ERROR: No matching distribution found for acme-charts==2.0",
    )
    found = verdict(outcome, project(v2_0=Availability.OFFERED))
    assert (found.kind, "`acme-charts==2.0`" in found.message) == (ErrorKind.NOT_FOUND, True)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_version_that_pip_passed_over_since_it_is_another_is_no_success(exit_code: int, tmp_path: Path) -> None:
    base = "http://127.0.0.1:40001/token"
    line = (
        f"Discarding {base}/files/acme-base/acme_base-2.0.tar.gz#sha256=ab (from {base}/simple/acme-base/) "
        f"(requires-python:>=3.8): Requested acme-base from {base}/files/acme-base/acme_base-2.0.tar.gz (from -r "
        "requirements.txt (line 2)) has inconsistent version: expected '2.0', but metadata has '3.0'"
    )
    error = verdict(printed(tmp_path, exit_code, line))
    assert error.kind is ErrorKind.BROKEN_WHEEL
    assert "acme_base-2.0.tar.gz is not what its name says" in str(error)
    assert "token" not in str(error)
