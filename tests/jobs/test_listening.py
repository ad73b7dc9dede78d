import os
import socket
from collections.abc import Iterator

import pytest
import structlog

from config.problems import SettingsError
from config.settings import ApiSettings
from jobs.listening import address_of, listen, listening
from tests.support.command import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


def test_a_port_that_was_chosen_and_is_taken_is_refused_with_what_to_do(taken: int) -> None:
    with pytest.raises(SettingsError, match=f"127.0.0.1:{taken} cannot be listened on .*a port of its own, such as"):
        listen(ApiSettings(port=taken))


def test_a_port_that_nobody_chose_may_be_taken(taken: int) -> None:
    with structlog.testing.capture_logs() as logged, listening(ApiSettings.model_construct(set(), port=taken)) as found:
        assert found is None
    assert [(line["event"], line["setting"]) for line in logged] == [
        ("api_not_listening", "moderne.agent.visualization.api.port")
    ]


def test_with_port_0_nothing_listens() -> None:
    with listening(ApiSettings(port=0)) as found:
        assert found is None


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"api\.host.*address of this machine"):
        listen(ApiSettings(host="no-such-host.invalid"))


def test_all_families_are_understood() -> None:
    assert address_of(ApiSettings(host="::1", port=1)) == (socket.AF_INET6, ("::1", 1))
    assert address_of(ApiSettings(host="127.0.0.1", port=1)) == (socket.AF_INET, ("127.0.0.1", 1))


def test_a_forked_child_does_not_keep_the_port() -> None:
    port = free_port()
    ready, tell = os.pipe()
    end, let_end = os.pipe()
    listener = listen(ApiSettings(port=port))
    assert listener is not None
    child = os.fork()
    if child == 0:
        os.write(tell, b".")
        os.read(end, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        listener.close()
        again = listen(ApiSettings(port=port))
        assert again is not None
        again.close()
    finally:
        os.write(let_end, b".")
        os.waitpid(child, 0)
        for descriptor in (ready, tell, end, let_end):
            os.close(descriptor)
