"""The Lua scripts of ``scripts.lua`` and ``traffic.lua``, ready to be called."""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from redis import Redis

_MARK = "--- script: "


@cache
def sources(file: str = "scripts.lua") -> dict[str, str]:
    """Return each script of ``file`` by its name, with the common part in front of it."""
    common, *scripts = files("jobs").joinpath(file).read_text(encoding="utf-8").split(_MARK)
    named = (script.split("\n", 1) for script in scripts)
    return {name.strip(): common + body for name, body in named}


class Scripts:
    """Calls the scripts on one Redis, under one key prefix.

    A script that Redis does not know (any more) is loaded by the call itself: redis-py answers NOSCRIPT with SCRIPT
    LOAD, so a Redis that was restarted or flushed needs no care.
    """

    def __init__(self, redis: Redis, prefix: str, file: str = "scripts.lua") -> None:
        self._prefix = prefix
        self._scripts: dict[str, Callable[..., Any]] = {
            name: redis.register_script(source) for name, source in sources(file).items()
        }

    def __call__(self, name: str, *arguments: str | int) -> Any:  # noqa: ANN401 - each script has its own answer
        """Run the script ``name``; what it takes and returns stands above it in ``scripts.lua``."""
        return self._scripts[name](args=[self._prefix, *arguments])
