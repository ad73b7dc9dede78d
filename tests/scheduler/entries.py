from datetime import UTC, datetime

from config.settings import Target
from jobs.models import CatalogEntry


def catalog_entry() -> CatalogEntry:
    """Make what the catalogue says of a bundle, of which nothing needs to be in a store."""
    return CatalogEntry(
        id="0" * 32,
        name="acme",
        version="1.0",
        target=Target(),
        uri="s3://bucket/bundles/acme",
        wheels=1,
        size_bytes=1,
        visualizations=1,
        created_at=datetime.now(UTC),
    )
