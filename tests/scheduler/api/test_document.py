"""What docs/api.md shows, done as it stands there."""

import os
import re
import subprocess
from pathlib import Path

from tests.scheduler.api.service import TOKEN, Api

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_command_of_the_document_works(closed_api: Api, tmp_path: Path) -> None:
    commands = "".join(_BLOCK.findall(DOCUMENT.read_text()))
    assert commands.count("curl ") == 13
    given = tmp_path / "given"
    given.mkdir()
    (given / "authorization").write_text(f"Authorization: Bearer {TOKEN}\n")
    done = subprocess.run(
        ["/bin/bash", "-eu", "-c", commands],
        cwd=given,
        env={"PATH": os.environ["PATH"], "VIZFETCH_API": f"{closed_api.url}/api/v1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "event: done" in done.stdout
    assert '"name":"charts"' in done.stdout
