"""The documents of a bundle: closed, immutable and versioned; camelCase in JSON, snake_case in Python."""

from typing import Annotated, Literal
from unicodedata import category

from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

from config.settings import Target

SCHEMA_VERSION: Literal[1] = 1


class Document(BaseModel):
    """The base of all models here."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def _normal_name(name: str) -> str:
    return canonicalize_name(name, validate=True)


def _normal_version(version: str) -> str:
    return str(Version(version))


def _plain_file_name(name: str) -> str:
    if name in {"", ".", ".."} or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError("not a plain file name")
    return name


def _path_below(path: str) -> str:
    for part in path.split("/"):
        _plain_file_name(part)
    return path


Name = Annotated[str, AfterValidator(_normal_name)]
"""A project's name in the normal form of PEP 503."""

VersionText = Annotated[str, AfterValidator(_normal_version)]
"""A version in the normal form of PEP 440."""

FileName = Annotated[str, AfterValidator(_plain_file_name)]
"""A name without any folder: it becomes part of a path on disk and in the store."""

RelativePath = Annotated[str, AfterValidator(_path_below)]
"""A path that stays below the folder it is relative to."""


def _one_line(text: str) -> str:
    if any(category(character) == "Cc" for character in text):
        raise ValueError("not one line of text: it has a control character")
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_one_line)]

MAX_VISUALIZATION_NAME = 500
"""Eight times what packages in use have. Pages carry it in their addresses, each character in up to 12 bytes."""

VisualizationName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_VISUALIZATION_NAME),
    AfterValidator(_one_line),
]

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

BundleId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Origin(Document):
    """What the gateway says about one file that it served."""

    filename: FileName
    index: str
    """The index it came from, by the name that users know: ``pypi[0]`` or ``public``."""
    sha256: Sha256 | None = None
    """What that index promised, if it promised anything."""
    yanked: str | None = None
    """Why the file was yanked (PEP 592; may be empty), or nothing when it was not."""
    built: bool = False
    """Whether the agent built it from the source distribution that the index served."""


class BundledWheel(Document):
    """One wheel of a bundle."""

    name: Name
    version: VersionText
    filename: FileName
    sha256: Sha256
    size_bytes: NonNegativeInt
    index: str
    """The index it came from."""
    yanked: str | None = None
    """Why it was yanked when it was fetched (may be empty), or nothing when it was not."""
    built: bool = False
    """Whether the agent built it from the source that the index has; nobody but the agent made this very file."""
    licenses: tuple[str, ...] = ()
    """Under which licences its metadata says it is: an SPDX expression, or names as its author wrote them."""
    requires: tuple[Name, ...] = ()
    """Which other wheels of the bundle it needs for the target, by itself or for one of its extras."""


class BundledFile(Document):
    """One object of a bundle beside its wheels and its ``bundle.json``."""

    path: RelativePath
    """Relative to the bundle's folder."""
    sha256: Sha256
    size_bytes: NonNegativeInt


class Option(Document):
    """A value that the user of a visualization may set."""

    name: Text
    display_name: str = ""
    description: str = ""
    required: bool = False
    valid: tuple[JsonValue, ...] | None = None
    """The only values it takes, when the spec lists them."""


def _name_or_mapping(value: object) -> object:
    # Said before the union is tried, which would complain once for each of its members.
    if not isinstance(value, str | dict):
        raise ValueError("must be a recipe's name, or a mapping of its name to its options")  # noqa: TRY004
    return value


class Spec(Document):
    """What the author of a visualization wrote about it."""

    type: Literal["specs.moderne.io/v1beta/visualization"]
    name: VisualizationName
    display_name: Text
    description: str
    recipe: Annotated[Text | dict[str, JsonValue], BeforeValidator(_name_or_mapping)]
    """The recipe's name, or a mapping of its name to its options."""
    data_table: Text
    additional_data_tables: dict[str, JsonValue] = Field(default_factory=dict)
    options: tuple[Option, ...] = ()


class Visualization(Spec):
    """One visualization, as its spec describes it and as catalogues show it."""

    notebook: str
    """Where the notebook is inside the wheel."""
    image: RelativePath | None = None
    """Where a picture of it is, relative to the bundle's folder."""


class Bundle(Document):
    """What was published, for which target, and where it came from."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: BundleId
    """A digest of the wheel set and the target: the same content has the same id."""
    requirement: str
    """What was asked for."""
    name: Name
    version: VersionText
    target: Target
    wheels: tuple[BundledWheel, ...]
    """Sorted by name; with the package itself."""
    files: tuple[BundledFile, ...] = ()
    """The locks, the bill of materials and the pictures as they were published, sorted by path."""
    visualizations: tuple[Visualization, ...] = ()
    python_version: str
    """Of the interpreter that fetched."""
    pip_version: str
    """Of the pip that resolved."""
    created_at: AwareDatetime
    uploaded_bytes: NonNegativeInt = 0
    """How many bytes of wheels were new to the store, as far as the attempt that published it knows."""
    warnings: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """All wheels together."""
        return sum(wheel.size_bytes for wheel in self.wheels)

    @property
    def package(self) -> BundledWheel:
        """The wheel that the bundle is made for."""
        return next(wheel for wheel in self.wheels if wheel.name == self.name)


class Manifest(Bundle):
    """The content of ``bundle.json``: a bundle, sealed. ``bundles.manifest`` writes and reads it."""

    digest: Sha256
    """sha256 of the document itself, with 64 zeros in place of this value."""
