"""Project pages of an index (PEP 503, 691, 700): read, judged for a target environment, and written again."""

import hashlib
import html
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import islice
from typing import IO, Any, Literal, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

import pypi_simple
from packaging.specifiers import SpecifierSet
from packaging.tags import InvalidTag, Tag, TooManyTagsError, parse_tag
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import BaseModel, StrictBool, TypeAdapter, ValidationError
from pypi_simple.html import Link

from bundles.target import fits, full_version, tags
from config.settings import Target
from worker.gateway.jsontext import JsonText
from worker.gateway.links import NotSimple, read_links
from worker.gateway.record import Availability
from worker.gateway.startup import Rules

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
MAX_LINKS = 100_000
"""The largest public projects have a fifth of that. Bounds the memory that a page takes, beside its bytes."""
_VALUES_PER_FILE = 4
"""Of what is read of a JSON page one at a time: a file, and some version of it."""
_MAX_NAME_CHARACTERS = 240
"""File systems have 255, of which a suffix takes some."""
_MAX_TAGS = 200
"""A triple stands for all combinations of its parts (PEP 425); real ones are a few dozen."""
_MAX_RANGE_CHARACTERS = 1000
"""Of the Pythons that a file is for."""

_JSON_TYPES = {JSON_TYPE, "application/json"}
_HTML_TYPES = {HTML_TYPE, "text/html", "application/xhtml+xml"}
_SOUND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
_ALGORITHM = re.compile(r"[\w-]+")
_DIGEST = re.compile(r"[0-9a-fA-F]+")
_SHA256_DIGITS = 64
_USUAL = re.compile(rf"sha256=[0-9a-f]{{{_SHA256_DIGITS}}}")
"""All digests of nearly every file."""
_OTHER_ALGORITHMS = ("sha512", "sha384", "sha224", "sha1", "md5")
"""What else installers compare (PEP 503), the best first."""
_SDIST = re.compile(r"\.(?:tar\.gz|zip)$")
"""PEP 625, and the one other form that old projects have."""
_ARCHIVE = re.compile(r"\.(?:whl|tar\.gz|zip|egg|tar\.bz2|tgz|tar\.xz|exe|msi|rpm)$")
_QUARANTINED = "quarantined"
_MAX_REASON_CHARACTERS = 1000
"""Of why a file was yanked, which becomes part of messages and documents."""
_CUTOFF_STEP_SECONDS = 60
"""Views of pages are shared by all tasks that ask within a minute, so the age is as exact as that."""
_KEPT_VIEWS = 8
_FILES_PER_BLOCK = 1000

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class IndexFile(NamedTuple):
    """One file that an index offers. A tuple, which is made in less time: a page may hold thousands."""

    filename: str
    url: str
    version: str
    """Normalised (PEP 440)."""
    is_wheel: bool
    digests: str
    """Each with its algorithm before it, as HTML has one. A mapping would take several times the memory."""
    size_bytes: int | None
    requires_python: str | None
    yanked: str | None
    uploaded: float | None
    """In seconds since the epoch."""
    metadata_digests: str | None
    """Of its metadata file (PEP 658), possibly none; None when there is no such file."""

    @property
    def hashes(self) -> Mapping[str, str]:
        """The promised digests by their algorithms."""
        return _by_algorithm(self.digests)

    @property
    def metadata(self) -> Mapping[str, str] | None:
        """The promised digests of its metadata file."""
        return None if self.metadata_digests is None else _by_algorithm(self.metadata_digests)

    @property
    def sha256(self) -> str | None:
        """The promised digest, if the index promises one that is worth it."""
        return self.hashes.get("sha256")

    @property
    def other_digest(self) -> tuple[str, str] | None:
        """The best of the other digests that can be computed here, with its algorithm."""
        hashes = self.hashes
        return next(((name, hashes[name]) for name in _OTHER_ALGORITHMS if name in hashes), None)

    @property
    def has_metadata(self) -> bool:
        """Whether metadata can be asked for: the index has it, or it is made from the wheel."""
        return self.is_wheel or self.metadata_digests is not None


@dataclass(frozen=True)
class Lens:
    """Through what a page is seen: which of its files may be shown."""

    target: Target
    sdists: bool = False
    uploaded_before: float | None = None
    """Seconds since the epoch; None shows files of any age."""
    unknown_age: bool = True
    """Whether files without an upload time are shown nevertheless."""


def lens(target: Target, rules: Rules, project: str) -> Lens:
    """Return what a task with this target may see of a project."""
    sdists = rules.sdists == "allow" or (isinstance(rules.sdists, tuple) and project in rules.sdists)
    if rules.min_package_age_seconds <= 0:
        return Lens(target, sdists)
    cutoff = (time.time() - rules.min_package_age_seconds) // _CUTOFF_STEP_SECONDS * _CUTOFF_STEP_SECONDS
    return Lens(target, sdists, cutoff, rules.min_package_age_unknown == "trust")


@dataclass(frozen=True)
class Status:
    """What an index says of a project as a whole (PEP 792)."""

    marker: str
    reason: str | None = None


@dataclass(frozen=True)
class View:
    """A page as one target sees it: only wheels it can load. Written once, when first asked for."""

    project: str
    files: Mapping[str, IndexFile]
    versions: Mapping[str, Availability]
    status: Status | None = None

    @cached_property
    def json(self) -> tuple[bytes, ...]:
        """The page by PEP 691, in blocks that each hold whole files: nobody needs all of a large one at once."""
        return tuple(_as_json(self.project, self.files.values(), self.status))

    def json_at(self, files: str) -> tuple[int, Iterator[bytes]]:
        """Return the page by PEP 691 with absolute addresses, and its size: ``files`` is what they begin with."""
        # Within a value, quotation marks are escaped: it cannot be taken for the beginning of another.
        relative, absolute = b'"url":"' + _FILES.encode(), b'"url":"' + files.encode()
        size_bytes = sum(map(len, self.json)) + len(self.files) * (len(absolute) - len(relative))
        return size_bytes, (block.replace(relative, absolute) for block in self.json)

    @cached_property
    def html(self) -> tuple[bytes, ...]:
        """The page by PEP 503, in blocks as well."""
        return tuple(_as_html(self.project, self.files.values(), self.status))

    @cached_property
    def digest(self) -> str | None:
        """A digest of all that a client is told; None where it cannot prove that the files are the same as well."""
        if not all(file.sha256 for file in self.files.values()):
            return None
        digest = hashlib.sha256()
        for block in self.json:
            digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Page:
    """A project's page, read. Views are made once for each lens."""

    project: str
    url: str
    files: tuple[IndexFile, ...]
    status: Status | None = None
    _views: dict[Lens, View] = field(default_factory=dict, compare=False, repr=False)

    def view(self, lens: Lens) -> View:
        """Return what may be seen through ``lens``. Two threads may both make it; the results are the same."""
        view = self._views.get(lens)
        if view is None:
            if len(self._views) >= _KEPT_VIEWS:  # of minutes gone by
                self._views.clear()
            view = self._views[lens] = _view(self, lens)
        return view


def read(project: str, url: str, content_type: str, body: IO[bytes]) -> Page:
    """Read an index's answer, a piece at a time. Raises NotSimple.

    ``url`` is where it came from, ``project`` normalised.
    """
    media_type, charset = _content_type(content_type)
    if media_type in _JSON_TYPES:
        files, status = _from_json(project, url, body)
    elif media_type in _HTML_TYPES:
        files, status = _from_html(project, url, body, charset)
    else:
        raise NotSimple(f"it is {media_type or 'of no type'}, neither JSON nor HTML")
    return Page(project, url, tuple(files), status)


def _content_type(value: str) -> tuple[str, str | None]:
    media_type, _, parameters = value.partition(";")
    match = re.search(r"""charset\s*=\s*["']?([\w.:-]+)""", parameters, re.IGNORECASE)
    return media_type.strip().lower(), match[1] if match else None


def _from_json(project: str, url: str, body: IO[bytes]) -> tuple[list[IndexFile], Status | None]:
    text, files = JsonText(body, _VALUES_PER_FILE * MAX_LINKS), list[IndexFile]()
    about: dict[str, Any] = {}
    try:
        for name in text.members():
            if name == "files":
                about[name] = []
                files += _json_files(project, url, text)
            elif name in _ABOUT:
                about[name] = text.value()
            else:
                text.skip()
        text.end()
        # Taken out before it is validated: an index may know of a status that is not in the standard yet.
        status = _json_status(about.pop("project-status", None))
        pypi_simple.ProjectPage.from_json_data(about, url)
    except (ValueError, ValidationError, RecursionError) as error:
        raise NotSimple(f"its JSON is not a simple page: {_first_line(error)}") from error
    except pypi_simple.UnsupportedRepoVersionError as error:
        raise NotSimple(str(error)) from error
    return files, status


_ABSOLUTE = ("https://", "http://")
_WHEEL_PARTS = 5
"""Without a build number."""
_ABOUT = {"meta", "name", "project-status"}


def _json_files(project: str, url: str, text: JsonText) -> Iterator[IndexFile]:
    for number, entry in enumerate(text.elements()):
        if number == MAX_LINKS:
            raise NotSimple(f"it has more than {MAX_LINKS} files")
        file = _from_listed(_listed(entry), project, url)
        if file is not None:
            yield file


_Parts = tuple[str | None, str | None, str | None]
"""A file's project, version and type."""


class _Listed(BaseModel, alias_generator=lambda name: name.replace("_", "-")):
    """A file by PEP 691, 700 and 714."""

    filename: str
    url: str
    hashes: dict[str, str]
    requires_python: str | None = None
    core_metadata: StrictBool | dict[str, str] | None = None
    yanked: StrictBool | str = False
    size: int | None = None
    upload_time: Any = None


def _listed(entry: Any) -> _Listed:  # noqa: ANN401 - any JSON
    """Validate what a page says of a file, but for what nobody here asks for.

    "yanked" without yes, no or reason counts as no. Raises ValueError that names the file.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{_named(entry)}: it is no JSON object")  # noqa: TRY004 - what is wrong is the document
    try:
        return _Listed.model_validate(entry)
    except ValidationError as error:
        wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
        if not wrong or not all(_dispensable(entry, name) for name in wrong):
            raise ValueError(f"{_named(entry)}: {_problem(error)}") from error
        return _listed({name: value for name, value in entry.items() if name not in wrong})


def _from_listed(listed: _Listed, project: str, url: str) -> IndexFile | None:
    """Take over what JSON says of a file; see ``_file``."""
    yanked, metadata = listed.yanked, listed.core_metadata
    return _file(
        project,
        _parts(listed.filename, project),
        filename=listed.filename,
        url=listed.url if listed.url.startswith(_ABSOLUTE) else urljoin(url, listed.url),
        hashes=listed.hashes,
        requires_python=listed.requires_python,
        size_bytes=listed.size,
        yanked=yanked if isinstance(yanked, str) else "" if yanked else None,
        uploaded=listed.upload_time,
        metadata_hashes=metadata if isinstance(metadata, dict) else {} if metadata else None,
    )


def _parts(filename: str, project: str) -> _Parts:
    """Return a file's project, version and type by its name; all None when it says nothing of the kind.

    The usual names of wheels (PEP 427) and source distributions (PEP 625) are taken apart here, all others by the
    library, whose patterns take several times as long.
    """
    if filename.endswith(".whl"):
        parts = filename.split("-")
        numbered = len(parts) == _WHEEL_PARTS + 1 and parts[2][:1].isdecimal()
        if all(parts) and (numbered or len(parts) == _WHEEL_PARTS):
            return parts[0], parts[1], "wheel"
    elif filename.endswith(".tar.gz"):
        name, _, version = filename.removesuffix(".tar.gz").rpartition("-")
        if _is_named(name, project) and _version(version) is not None:
            return name, version, "sdist"
    try:
        return pypi_simple.parse_filename(filename, project)
    except pypi_simple.UnparsableFilenameError:
        return None, None, None


def _dispensable(entry: Any, name: str) -> bool:  # noqa: ANN401 - any JSON
    """Tell whether a file is the same without a value that is wrong."""
    return name == "yanked" and entry[name] is None


def _named(entry: Any) -> str:  # noqa: ANN401 - any JSON
    filename = entry.get("filename") if isinstance(entry, dict) else None
    return _line(filename, 100) if isinstance(filename, str) and filename else "a file without a name"


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def _json_status(value: object) -> Status | None:
    marker = value.get("status") if isinstance(value, dict) else value
    reason = value.get("reason") if isinstance(value, dict) else None
    return _short_status(marker, reason if isinstance(reason, str) else None) if isinstance(marker, str) else None


def _html_status(meta: Mapping[str, str]) -> Status | None:
    marker = meta.get("pypi:project-status")
    return None if marker is None else _short_status(marker, meta.get("pypi:project-status-reason"))


def _short_status(marker: str, reason: str | None) -> Status:
    """Bound what becomes part of messages and documents."""
    return Status(_line(marker, 40).lower(), None if reason is None else _line(reason, 300))


def _line(text: str, length: int) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text[:length]).split())


def _from_html(project: str, url: str, body: IO[bytes], charset: str | None) -> tuple[list[IndexFile], Status | None]:
    files: list[IndexFile] = []
    archives = 0

    def take(link: Link) -> None:
        nonlocal archives
        named = _named_by_url(link)
        if _ARCHIVE.search(named.text):
            archives += 1
            if _nameable(named.text):
                file = _from_package(pypi_simple.DistributionPackage.from_link(named, project), project)
                files.extend([] if file is None else [file])

    found = read_links(url, body, charset, MAX_LINKS, take)
    _check_version(found.meta.get("pypi:repository-version", "1.0"))
    if not archives:
        found.refuse_people()
    return files, _html_status(found.meta)


def _check_version(version: str) -> None:
    """Accept what is compatible with version 1 (PEP 629). Raises NotSimple."""
    major = version.strip().partition(".")[0]
    if major.isdecimal() and major.lstrip("0") != "1":
        raise NotSimple(f"it speaks version {version[:20]} of the protocol, which is not known here")


def _named_by_url(link: Link) -> Link:
    """Name a link by its address as pip does: servers that list directories shorten the visible text."""
    name = unquote(urlsplit(link.url).path.rpartition("/")[2])
    return Link(text=name, url=link.url, attrs=link.attrs) if _ARCHIVE.search(name) else link


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


def _from_package(package: pypi_simple.DistributionPackage, project: str) -> IndexFile | None:
    """Take over what a link says of a file; see ``_file``."""
    return _file(
        project,
        (package.project, package.version, package.package_type),
        filename=package.filename,
        url=package.url,
        hashes=package.digests,
        requires_python=package.requires_python,
        size_bytes=package.size,
        yanked=(package.yanked_reason or "") if package.is_yanked else None,
        uploaded=None,
        metadata_hashes=(package.metadata_digests or {}) if package.has_metadata else None,
    )


def _file(
    project: str,
    parts: _Parts,
    *,
    filename: str,
    url: str,
    hashes: Mapping[str, str],
    requires_python: str | None,
    size_bytes: int | None,
    yanked: str | None,
    uploaded: object,
    metadata_hashes: Mapping[str, str] | None,
) -> IndexFile | None:
    """Take over what may be shown and stored; None for names that are unsound or another project's."""
    version = _version(parts[1] or "")
    if version is None or parts[0] is None or not _nameable(filename):
        return None
    digests, metadata_digests = _digests(hashes), None if metadata_hashes is None else _digests(metadata_hashes)
    if not _is_named(parts[0], project) or digests is None or (metadata_hashes and metadata_digests is None):
        return None
    return IndexFile(
        filename,
        url,
        version,
        parts[2] == "wheel",
        digests,
        None if size_bytes is None or size_bytes < 0 else size_bytes,
        _range(requires_python),
        None if yanked is None else _line(yanked, _MAX_REASON_CHARACTERS),
        None if uploaded is None else _seconds(uploaded),
        metadata_digests,
    )


def _is_named(name: str, project: str) -> bool:
    return name == project or canonicalize_name(name) == project


def _nameable(filename: str) -> bool:
    """Tell whether a file may be called that, on any disk and in any URL."""
    return len(filename) <= _MAX_NAME_CHARACTERS and _SOUND_NAME.fullmatch(filename) is not None


def _seconds(time: object) -> float | None:
    """Return a time (PEP 700: ISO 8601) in seconds; None when it is none. One that does not say is in UTC.

    A number, also as text, may be seconds, milliseconds or nothing: whoever guesses takes a new file for an old one.
    """
    if not isinstance(time, str) or time[_YEAR_DIGITS : _YEAR_DIGITS + 1] != "-":
        return None
    try:
        # Nearly all are in a form that the standard library reads, which takes less time.
        read = datetime.fromisoformat(time)
    except ValueError:
        try:
            read = _times.validate_python(time)
        except ValidationError:
            return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


_YEAR_DIGITS = 4
_times = TypeAdapter(datetime)


def _range(requires_python: str | None) -> str | None:
    """Return a range of Pythons, once for all files that repeat it; one that is too long excludes nothing."""
    if requires_python is None or len(requires_python) > _MAX_RANGE_CHARACTERS:
        return None
    return sys.intern(requires_python)


def _digests(hashes: Mapping[str, str]) -> str | None:
    """Return digests with their algorithms; None when one is no digest: the cache names files by them."""
    if len(hashes) == 1 and _USUAL.fullmatch(usual := f"sha256={hashes.get('sha256')}"):
        return usual
    if not all(_sound(name, digest) for name, digest in hashes.items()):
        return None
    return " ".join(f"{name}={digest}".lower() for name, digest in hashes.items() if _ALGORITHM.fullmatch(name))


def _sound(name: str, digest: str) -> bool:
    return _DIGEST.fullmatch(digest) is not None and (name.lower() != "sha256" or len(digest) == _SHA256_DIGITS)


def _by_algorithm(digests: str) -> dict[str, str]:
    pairs = (each.rpartition("=") for each in digests.split())
    return {name: digest for name, _, digest in pairs}


@lru_cache(maxsize=20_000)
def _version(text: str) -> str | None:
    try:
        return str(Version(text))
    except ValueError:  # also of a number that is too long to be one
        return None


def _view(page: Page, lens: Lens) -> View:
    quarantined = page.status is not None and page.status.marker == _QUARANTINED
    offered = () if quarantined else tuple(file for file in page.files if _shown(file, lens))
    versions = _versions(page.files, lens)
    if quarantined:  # nobody is to install from it (PEP 792)
        versions = dict.fromkeys(versions, Availability.QUARANTINED)
    return View(page.project, {file.filename: file for file in offered}, versions, page.status)


def _shown(file: IndexFile, lens: Lens) -> bool:
    return _loads(file, lens) and _age(file, lens) == "old"


def _loads(file: IndexFile, lens: Lens) -> bool:
    """Tell whether the target loads this wheel, or whether this source may become one."""
    if file.is_wheel:
        return fits_name(_tags_of(file.filename), lens.target)
    return lens.sdists and _SDIST.search(file.filename) is not None


def _age(file: IndexFile, lens: Lens) -> Literal["old", "new", "unknown"]:
    """Tell whether a file has been there long enough; what is not asked is."""
    if lens.uploaded_before is None:
        return "old"
    if file.uploaded is None:
        return "old" if lens.unknown_age else "unknown"
    return "old" if file.uploaded <= lens.uploaded_before else "new"


def _tags_of(filename: str) -> str:
    """Return the tag triple of a wheel's name, the last three of its parts (PEP 427)."""
    return "-".join(filename.removesuffix(".whl").rsplit("-", 3)[1:])


def _parsed(triple: str) -> frozenset[Tag]:
    """Return what a triple stands for: nothing when it is none, as ``py36+-none-any``, which real pages have."""
    try:
        return parse_tag(triple, limit=_MAX_TAGS)
    except (InvalidTag, TooManyTagsError):
        return frozenset()


@lru_cache(maxsize=5000)
def fits_name(triple: str, target: Target) -> bool:
    """Tell whether a wheel with this tag triple can be loaded. Pages repeat few triples many times."""
    return fits(_parsed(triple), target)


@lru_cache(maxsize=64)
def _own_platforms(target: Target) -> frozenset[str]:
    return frozenset(tag.platform for tag in tags(target))


@lru_cache(maxsize=5000)
def _right_platform(triple: str, target: Target) -> bool:
    return any(tag.platform in _own_platforms(target) for tag in _parsed(triple))


@lru_cache(maxsize=5000)
def _right_python(requires_python: str | None, target: Target) -> bool:
    """Tell whether the target's Python is in the range; an unreadable range excludes nothing, as in pip."""
    try:
        return SpecifierSet(requires_python or "").contains(full_version(target), prereleases=True)
    except ValueError:
        return True


def _versions(files: Iterable[IndexFile], lens: Lens) -> dict[str, Availability]:
    by_version: dict[str, list[IndexFile]] = defaultdict(list)
    for file in files:
        by_version[file.version].append(file)
    return {version: _availability(found, lens) for version, found in by_version.items()}


def _availability(files: list[IndexFile], lens: Lens) -> Availability:
    """Say the most helpful thing about a version: what would have to be different for it to be usable."""
    target = lens.target
    wheels = [file for file in files if file.is_wheel]
    usable = [file for file in files if _loads(file, lens) and _right_python(file.requires_python, target)]
    ages = {_age(file, lens) for file in usable}
    if ages:
        return Availability.OFFERED if "old" in ages else _TOO_YOUNG["new" if "new" in ages else "unknown"]
    if not any(_right_python(file.requires_python, target) for file in files):
        return Availability.OTHER_PYTHON
    if not wheels:
        return Availability.SOURCE_ONLY
    if any(_right_platform(_tags_of(file.filename), target) for file in wheels):
        return Availability.OTHER_PYTHON
    return Availability.OTHER_PLATFORM


_TOO_YOUNG = {"new": Availability.TOO_NEW, "unknown": Availability.AGE_UNKNOWN}


def _as_json(project: str, files: Collection[IndexFile], status: Status | None) -> Iterator[bytes]:
    # 1.1 (PEP 700) promises a size for every file.
    version = "1.0" if any(file.size_bytes is None for file in files) else "1.1"
    document: dict[str, Any] = {
        "meta": {"api-version": version},
        "name": project,
        "versions": sorted({file.version for file in files}),
    }
    if status is not None:
        reason = {} if status.reason is None else {"reason": status.reason}
        document["project-status"] = {"status": status.marker, **reason}
    yield (_to_json(document).removesuffix("}") + ',"files":[').encode()
    comma = ""
    for block in _blocks(files):
        yield (comma + ",".join(_to_json(_json_file(project, file)) for file in block)).encode()
        comma = ","
    yield b"]}"


def _json_file(project: str, file: IndexFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"filename": file.filename, "url": _link(project, file), "hashes": file.hashes}
    if file.requires_python:
        entry["requires-python"] = file.requires_python
    if file.size_bytes is not None:
        entry["size"] = file.size_bytes
    # No upload time: pip would parse it for every link, and what is too young is not shown anyway.
    if file.yanked is not None:
        entry["yanked"] = file.yanked or True
    if file.has_metadata:
        entry["core-metadata"] = True  # without a digest: what is given is shorter than what the index has
    return entry


_FILES = "../../files/"


def _link(project: str, file: IndexFile) -> str:
    """Point back to the gateway, relative to the page, so that one rendering serves every task."""
    return f"{_FILES}{project}/{quote(file.filename)}"


def _as_html(project: str, files: Collection[IndexFile], status: Status | None) -> Iterator[bytes]:
    head = '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0">'
    if status is not None:
        head += _meta("pypi:project-status", status.marker)
        head += "" if status.reason is None else _meta("pypi:project-status-reason", status.reason)
    yield f"{head}<title>{project}</title></head><body>\n".encode()
    for block in _blocks(files):
        links = (f"<a {_attributes(project, file)}>{html.escape(file.filename)}</a><br>\n" for file in block)
        yield "".join(links).encode()
    yield b"</body></html>\n"


def _blocks(files: Iterable[IndexFile]) -> Iterator[list[IndexFile]]:
    left = iter(files)
    while block := list(islice(left, _FILES_PER_BLOCK)):
        yield block


def _meta(name: str, content: str) -> str:
    return f'<meta name="{name}" content="{html.escape(content)}">'


def _attributes(project: str, file: IndexFile) -> str:
    digest = f"#{_digest(file.hashes)}" if file.digests else ""
    pairs = {"href": _link(project, file) + digest}
    if file.requires_python:
        pairs["data-requires-python"] = file.requires_python
    if file.yanked is not None:
        pairs["data-yanked"] = file.yanked
    if file.has_metadata:
        pairs["data-core-metadata"] = "true"
    return " ".join(f'{name}="{html.escape(value)}"' for name, value in pairs.items())


def _digest(hashes: Mapping[str, str]) -> str:
    """Choose the one digest that HTML has room for."""
    if not hashes:
        return ""
    name = "sha256" if "sha256" in hashes else next(iter(hashes))
    return f"{name}={hashes[name]}"
