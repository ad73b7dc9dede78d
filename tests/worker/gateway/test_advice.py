import pytest

from config.settings import IndexSettings
from jobs.errors import ErrorKind
from worker.gateway.advice import message
from worker.gateway.errors import UpstreamError

CONNECTOR = "moderne.recipe.marketplace.repositories.pypi[0]"


def index(**options: str) -> IndexSettings:
    return IndexSettings.model_validate({"name": "pypi[0]", "url": "https://a/simple", **options})


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_settings_are_called_by_the_names_that_the_user_has(kind: ErrorKind) -> None:
    error = UpstreamError(kind, "failed", url="https://a/simple/b/", status=500)
    agent = message(error, index(), "b")
    connector = message(error, index(prefix=CONNECTOR), "b")
    assert "{index}" not in agent + connector
    assert connector == agent.replace("moderne.agent.pypi[0].url", f"{CONNECTOR}.uri").replace(
        "moderne.agent.pypi[0]", CONNECTOR
    )


def test_the_public_index_has_no_settings_of_its_own() -> None:
    error = UpstreamError(ErrorKind.CONNECTION, "failed", url="https://a/simple/b/")
    text = message(error, index(name="public"), "b")
    assert "useOnlyConfigured=true" in text
    assert "agent.public" not in text
