"""Pages as real servers write them, read and written again."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypi_simple import ProjectPage

from config.settings import Target
from tests.support.index_server import JSON_TYPE, IndexServer
from tests.worker.gateway.conftest import MakeGateway, MakeIndex, get, index_settings, read
from worker.gateway.links import NotSimple
from worker.gateway.pages import HTML_TYPE, Lens, Page, View

URL = "https://index.example/simple/demo/"
SHA256 = "ab" * 32


def html(*links: str) -> bytes:
    return ("<!DOCTYPE html><html><body>" + "<br>".join(links) + "</body></html>").encode()


def read_html(*links: str) -> Page:
    return read("demo", URL, "text/html; charset=utf-8", html(*links))


def read_json(*files: dict[str, object], **more: object) -> Page:
    document = {"meta": {"api-version": "1.1"}, "name": "demo", "files": files, **more}
    return read("demo", URL, JSON_TYPE, json.dumps(document).encode())


def shown(view: View) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(b"".join(view.json))
    return document


@pytest.mark.parametrize(
    ("href", "url"),
    [
        ("demo-1.0-py3-none-any.whl", URL + "demo-1.0-py3-none-any.whl"),
        ("../../f/demo-1.0-py3-none-any.whl#sha256=" + SHA256, "https://index.example/f/demo-1.0-py3-none-any.whl"),
        ("//cdn.example/demo-1.0-py3-none-any.whl?sig=1", "https://cdn.example/demo-1.0-py3-none-any.whl?sig=1"),
        ("https://cdn.example/a/demo-1.0-py3-none-any.whl", "https://cdn.example/a/demo-1.0-py3-none-any.whl"),
    ],
)
def test_links_are_resolved(href: str, url: str) -> None:
    [file] = read_html(f'<a href="{href}">demo-1.0-py3-none-any.whl</a>').files
    assert (file.filename, file.url, file.version) == ("demo-1.0-py3-none-any.whl", url, "1.0")


def test_base_element_counts() -> None:
    link = '<base href="https://other.example/"><a href="demo-1.0-py3-none-any.whl">demo-1.0-py3-none-any.whl</a>'
    assert read_html(link).files[0].url == "https://other.example/demo-1.0-py3-none-any.whl"


def test_directory_listings_that_shorten_names() -> None:
    link = '<a href="demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl">demo-1.0-cp311-cp311-manyli..&gt;</a>'
    [file] = read_html('<a href="../">../</a>', link).files
    assert file.filename == "demo-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"


def test_local_versions_are_escaped() -> None:
    page = read_html('<a href="demo-1.0%2Bcu1-py3-none-any.whl">demo-1.0+cu1-py3-none-any.whl</a>')
    [file] = page.files
    assert (file.filename, file.version) == ("demo-1.0+cu1-py3-none-any.whl", "1.0+cu1")
    [written] = shown(page.view(Lens(Target())))["files"]
    assert written["url"] == "../../files/demo/demo-1.0%2Bcu1-py3-none-any.whl"


@pytest.mark.parametrize(
    "name",
    [
        "other-1.0-py3-none-any.whl",
        "demo-1.0-py3-none-../../../etc/x.whl",
        "demo-one-py3-none-any.whl",
        "demo-1.0-py3-none-any\n.whl",
        "démo-1.0-py3-none-any.whl",
        ".demo-1.0-py3-none-any.whl",
        "demo-1.0-py3-none-any.whl.exe",
    ],
)
def test_names_that_are_unsound_or_of_others_are_dropped(name: str) -> None:
    assert read_json({"filename": name, "url": "x", "hashes": {}}).files == ()


@pytest.mark.parametrize(
    "hashes", [{"sha256": "../../../../etc/passwd"}, {"sha256": "ab"}, {"SHA256": "zz" * 32}, {"md5": "a/b"}]
)
@pytest.mark.parametrize("place", ["hashes", "core-metadata"])
def test_files_with_unsound_digests_are_dropped(hashes: dict[str, str], place: str) -> None:
    entry: dict[str, object] = {"filename": "demo-1.0-py3-none-any.whl", "url": "x", "hashes": {}, place: hashes}
    assert read_json(entry).files == ()


_FILENAMES = st.tuples(
    st.sampled_from(["demo", "Demo", "de_mo", "demo-demo", "demo.", "other", ""]),
    st.sampled_from(
        ["-1.0", "-1", "-1.0-1", "-v1.0", "-1.0.post1", "-1!2.0", "-1.0+local.1", "-1_0", "-1.0.x", "", "-"]
    ),
    st.sampled_from(["", "", "-1", "-1a", "-x", "-"]),
    st.sampled_from(
        [
            "",
            "",
            "-py3-none-any",
            "-cp311-cp311-manylinux_2_17_x86_64",
            "-3-none-any",
            "-py3--any",
            "--none-any",
            "---",
            "-a-b-c-d",
            ".linux-x86_64",
        ]
    ),
    st.sampled_from(
        [".whl", ".whl", ".tar.gz", ".tar.gz", ".zip", ".egg", ".exe", ".tar.bz2", ".rpm", ".msi", ".WHL", ""]
    ),
).map("".join)


@settings(max_examples=1000)
@given(filename=_FILENAMES)
def test_names_of_files_mean_the_same_in_both_forms(filename: str) -> None:
    """The library takes them apart for HTML."""
    listed = read_json({"filename": filename, "url": filename, "hashes": {}}).files
    linked = read_html(f'<a href="{filename}">{filename}</a>', '<a href="demo-9.whl">demo-9.whl</a>').files
    assert [(file.filename, file.version, file.is_wheel) for file in listed] == [
        (file.filename, file.version, file.is_wheel) for file in linked if file.filename == filename
    ]


@pytest.mark.parametrize("tags", ["py36+-none-any", "py3.-none-any", "py3--any", "py3.py2" * 100 + "-none-any"])
def test_a_name_whose_tags_mean_nothing_hides_that_file_alone(tags: str) -> None:
    """As ``pydantic-0.18-py36+-none-any.whl``, which the public index has."""
    names = [f"demo-1.0-{tags}.whl", "demo-2.0-py3-none-any.whl"]
    files: list[dict[str, object]] = [{"filename": each, "url": each, "hashes": {"sha256": SHA256}} for each in names]
    page = read_json(*files)
    assert [file["filename"] for file in shown(page.view(Lens(Target())))["files"]] == names[1:]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"yanked": None},
        {"yanked": None, "upload-time": ""},
    ],
)
def test_what_may_be_missing_may_be_wrong(spoilt: dict[str, object]) -> None:
    [file] = read_json({"filename": "demo-1.0-py3-none-any.whl", "url": "x", "hashes": {}, **spoilt}).files
    assert (file.yanked, file.uploaded) == (None, None)


@pytest.mark.parametrize(
    "time", ["soon", "2026-13-01", "", [5], {}, True, 0, 86401.5, "0", "1712101912345", "20200101T000000Z"]
)
def test_a_time_that_is_none_is_unknown(time: object) -> None:
    """A number may be seconds, milliseconds or nothing."""
    [file] = read_json({"filename": "demo-1.0-py3-none-any.whl", "url": "x", "hashes": {}, "upload-time": time}).files
    assert file.uploaded is None


@pytest.mark.parametrize(
    "time",
    [
        "1970-01-02T00:00:01.5Z",
        "1970-01-02t00:00:01.5z",
        "1970-01-02 01:00:01.500000+01:00",
        "1970-01-02T00:00:01.5",
    ],
)
def test_times_are_in_utc_without_a_zone(time: str) -> None:
    """As PEP 700 has it."""
    [file] = read_json({"filename": "demo-1.0-py3-none-any.whl", "url": "x", "hashes": {}, "upload-time": time}).files
    assert file.uploaded == 86401.5


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "10000-01-01T00:00:00Z"])
def test_a_time_beyond_all_calendars_hides_no_file(time: str) -> None:
    assert read_json({"filename": "demo-1.0-py3-none-any.whl", "url": "x", "hashes": {}, "upload-time": time}).files


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"yanked": 1}, r"demo-1\.0-py3-none-any\.whl: yanked\."),
        ({"yanked": 1, "upload-time": "soon"}, r"demo-1\.0-py3-none-any\.whl: yanked\."),
        ({"hashes": ["sha256"]}, r"demo-1\.0-py3-none-any\.whl: hashes: "),
        ({"filename": None}, "a file without a name: filename: "),
        ({"filename": "evil\x1b[31m\nname", "size": "much"}, r"evil \[31m name: size: "),
    ],
)
def test_what_is_wrong_is_told_of_the_file(spoilt: dict[str, object], told: str) -> None:
    with pytest.raises(NotSimple, match=f"^its JSON is not a simple page: {told}"):
        read_json({"filename": "demo-1.0-py3-none-any.whl", "url": "x", "hashes": {}, **spoilt})


def test_nothing_that_installers_go_by_is_lost_on_the_way() -> None:
    entry = {
        "filename": "demo-1.0-py3-none-any.whl",
        "url": "x.whl",
        "hashes": {"sha256": SHA256, "md5": "cd"},
        "requires-python": ">=3.8",
        "size": 5,
        "upload-time": "2026-01-02T03:04:05.000006Z",
        "yanked": "broken <on> Tuesdays",
        "core-metadata": {"sha256": "ef" * 32},
    }
    view = read_json(entry).view(Lens(Target()))
    document = shown(view)
    # Metadata is given without its description, which no digest of the index's is for.
    expected = {**entry, "url": "../../files/demo/demo-1.0-py3-none-any.whl", "core-metadata": True}
    del expected["upload-time"]
    assert document["files"] == [expected]
    size_bytes, blocks = view.json_at("http://gateway/t/files/")
    body = b"".join(blocks)
    assert size_bytes == len(body)
    [at] = json.loads(body)["files"]
    assert at == {**expected, "url": "http://gateway/t/files/demo/demo-1.0-py3-none-any.whl"}
    assert document["meta"] == {"api-version": "1.1"}
    [link] = ProjectPage.from_html("demo", b"".join(view.html), "http://gateway/t/simple/demo/").packages
    assert link.url == "http://gateway/t/files/demo/demo-1.0-py3-none-any.whl"
    assert (link.digests, link.requires_python) == ({"sha256": SHA256}, ">=3.8")
    assert (link.is_yanked, link.yanked_reason) == (True, "broken <on> Tuesdays")
    assert link.has_metadata
    assert not link.metadata_digests


def test_html_attributes_are_read() -> None:
    link = (
        f'<a href="demo-1.0-py3-none-any.whl#sha256={SHA256}" data-requires-python="&gt;=3.9" data-yanked="" '
        f'data-core-metadata="sha256={SHA256}">demo-1.0-py3-none-any.whl</a>'
    )
    [file] = read_html(link).files
    assert (file.sha256, file.requires_python, file.yanked) == (SHA256, ">=3.9", "")
    assert file.metadata == {"sha256": SHA256}


def test_a_page_without_sizes_is_of_the_older_version() -> None:
    document = shown(read_html('<a href="demo-1.0-py3-none-any.whl">x</a>').view(Lens(Target())))
    assert document["meta"] == {"api-version": "1.0"}


def test_an_empty_project_is_a_page() -> None:
    assert read_html().files == ()
    assert read_html('<a href="../">..</a>').files == ()
    assert read_json().files == ()


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("text/html", b"<form action=/sso><input name=u><input TYPE='password'></form>", "login form"),
        ("text/html", b"<html><script src=app.js></script>", "for people"),
        ("text/plain", b"hello", "neither JSON nor HTML"),
        ("", b"hello", "of no type"),
        (JSON_TYPE, b"[]", "not a simple page"),
        (JSON_TYPE, b"{", "not a simple page"),
        (JSON_TYPE, b'{"name":"demo","files":[{}],"meta":{"api-version":"1.0"}}', "not a simple page"),
        (JSON_TYPE, b'{"name":"demo","files":[],"meta":{"api-version":"2.0"}}', "version"),
        ("text/html", b'<meta name="pypi:repository-version" content="2.0">', "version"),
        ("text/html; charset=klingon", b"x", "cannot be read"),
    ],
)
def test_what_is_not_a_page_is_said_to_be_so(content_type: str, body: bytes, reason: str) -> None:
    with pytest.raises(NotSimple, match=reason) as caught:
        read("demo", URL, content_type, body)
    assert caught.value.login == (reason == "login form")


@given(body=st.binary(max_size=300), content_type=st.sampled_from([JSON_TYPE, "text/html", HTML_TYPE, "a/b"]))
def test_any_bytes_are_a_page_or_are_not(body: bytes, content_type: str) -> None:
    try:
        page = read("demo", URL, content_type, body)
    except NotSimple:
        return
    assert page.view(Lens(Target())).html


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (f"{JSON_TYPE}, {HTML_TYPE}; q=0.1, text/html; q=0.01", JSON_TYPE),
        (f"{HTML_TYPE}, text/html", HTML_TYPE),
        ("text/html", "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("", "text/html; charset=utf-8"),
        (f"{JSON_TYPE};q=0.1, {HTML_TYPE};q=0.2, */*;q=0.01", HTML_TYPE),
        (f"{JSON_TYPE};q=0, */*", "text/html; charset=utf-8"),
        ("application/vnd.pypi.simple.latest+json, text/html;q=0.5", JSON_TYPE),
        ("application/vnd.pypi.simple.latest+html", HTML_TYPE),
        ("application/*;q=0.5", JSON_TYPE),
        ("Text/HTML ; Q=0.9, application/json", "text/html; charset=utf-8"),
        (f"{JSON_TYPE}; q=high, text/html", JSON_TYPE),
    ],
)
@pytest.mark.parametrize("form", ["json", "html"])
def test_content_is_negotiated(
    accept: str, expected: str, form: str, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index: IndexServer = make_index(forms=(form,))
    index.add("demo-1.0-py3-none-any.whl", b"1")
    with make_gateway(index_settings(index)).session() as session:
        answer = get(session, "simple/demo/", Accept=accept)
    assert answer.headers["Content-Type"] == expected
    assert "demo-1.0-py3-none-any.whl" in answer.text
    assert index.origin not in answer.text


def test_a_client_that_wants_something_else(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index: IndexServer = make_index()
    index.add("demo-1.0-py3-none-any.whl", b"1")
    with make_gateway(index_settings(index)).session() as session:
        for accept in ("application/pdf", f"{JSON_TYPE};q=0", "text/html;q=0.000"):
            answer = get(session, "simple/demo/", Accept=accept)
            assert answer.status_code == 406
            assert JSON_TYPE in answer.text
