"""Tells by its exit code whether the service in this container is ready; for ``HEALTHCHECK``.

Asks on loopback, which needs no token. Imports nothing of vizfetch and runs with ``-I -S``: it is started every few
seconds. Never raises: whatever goes wrong is one line and exit code 1.
"""

import http.client
import os
import sys

_PATH = "/actuator/health/readiness"


def main() -> int:
    """Return 0 when the service says that it is ready, and print what it says otherwise."""
    port = int(os.environ.get("MODERNE_AGENT_VISUALIZATION_API_PORT") or 8080)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", _PATH)
        answer = connection.getresponse()
        said = answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"port {port} does not answer: {error}")
        return 1
    finally:
        connection.close()
    if answer.status != http.client.OK:
        print(f"{answer.status}: {said}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
