"""The JSON Schema of ``bundle.json``, made from the model that writes it.

``python -m bundles.schema`` writes it into the documents, and with ``--check`` tells whether it is up to date.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from bundles.models import Manifest

FILE = Path("docs/bundle.schema.json")


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which only repeat the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002 - pydantic's signature
        return False


def schema() -> str:
    """Return the schema of the document as it is written: every field is there."""
    document = {
        "$schema": GenerateJsonSchema.schema_dialect,
        **Manifest.model_json_schema(by_alias=True, mode="serialization", schema_generator=_Untitled),
    }
    return json.dumps(document, indent=2) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the schema, or return 1 with ``--check`` when the file is not up to date."""
    fresh = schema()
    if "--check" not in arguments:
        FILE.write_text(fresh, encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != fresh:
        sys.stderr.write(f"{FILE} does not show bundle.json as it is: run make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
