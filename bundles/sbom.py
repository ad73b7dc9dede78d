"""A bundle's bill of materials in CycloneDX. The same bundle gives the same bytes."""

import json
from collections.abc import Iterable, Iterator
from uuid import UUID

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from bundles.models import Bundle, BundledWheel


def sbom(bundle: Bundle) -> bytes:
    """Return ``sbom.cdx.json`` (CycloneDX 1.6): every wheel with its hash, its licences and what it needs.

    It holds no time and no index, so that whoever publishes the same wheels writes the same.
    """
    components = {wheel.name: _component(wheel) for wheel in bundle.wheels}
    bom = Bom(
        # The id is as long as a UUID, and as unique.
        serial_number=UUID(hex=bundle.id, version=4),
        components=(component for name, component in components.items() if name != bundle.name),
        dependencies=_dependencies(bundle.wheels, components),
    )
    bom.metadata.timestamp = None  # type: ignore[assignment]  # optional in the format, and left out by the writer
    bom.metadata.component = components[bundle.name]
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _component(wheel: BundledWheel) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=wheel.name,
        version=wheel.version,
        bom_ref=wheel.filename,
        purl=PackageURL("pypi", None, wheel.name, wheel.version, {"file_name": wheel.filename}),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)],
        licenses=_licenses(wheel.licenses),
    )


def _licenses(names: tuple[str, ...]) -> Iterable[License]:
    """Return SPDX ids and expressions as such where they are valid, else names: the format takes no mix of them."""
    factory = LicenseFactory()
    if len(names) == 1:
        return [factory.make_from_string(names[0])]
    return [DisjunctiveLicense(name=name) for name in names]


def _dependencies(wheels: Iterable[BundledWheel], components: dict[str, Component]) -> Iterator[Dependency]:
    for wheel in wheels:
        needed = [Dependency(components[name].bom_ref) for name in wheel.requires if name in components]
        yield Dependency(components[wheel.name].bom_ref, needed)
