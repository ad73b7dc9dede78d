"""Makes the secrets of a Compose deployment, once, each in a volume that only those who need it mount.

Passwords, keys and tokens are random, and stay as they are when this runs again. The files that servers read are made
from them each time. They can be read by every user of a container, since each container has its own; on the host, only
root gets to the volumes.
"""

import hashlib
import json
import secrets
import sys
from pathlib import Path

_READABLE = 0o444

# What docs/operations.md says that vizfetch needs, and what lets Flower see the workers: they publish that they live.
_COMMANDS = "-@all +@read +@write +@connection +@transaction +eval +evalsha +script|load +time -@dangerous"
_VIZFETCH = f"~vizfetch:* resetchannels &vizfetch:celery:* {_COMMANDS} +publish"
_FLOWER = f"~vizfetch:celery:* allchannels {_COMMANDS} +script|exists +@pubsub"
# The health check asks without a password, and may do nothing else.
_ANYBODY = "user default on nopass resetkeys resetchannels -@all +ping"


def main(root: Path) -> None:
    """Make what is missing under ``root``, which has a folder for each volume."""
    password = _secret(root / "redis/password")
    watching = _secret(root / "flower/redis-password")
    _secret(root / "flower/password")
    _secret(root / "api/token")
    _secret(root / "grafana/password")
    keys = _secret(root / "s3/access-key"), _secret(root / "s3/secret-key")
    _write(root / "valkey/users.acl", _users(password, watching))
    _write(root / "storage/s3.json", _identities(*keys))


def _users(password: str, watching: str) -> str:
    # The server gets digests: whoever reads its volume cannot log in.
    return f"""\
{_ANYBODY}
user vizfetch on #{_digest(password)} {_VIZFETCH}
user flower on #{_digest(watching)} {_FLOWER}
"""


def _identities(access_key: str, secret_key: str) -> str:
    identity = {
        "name": "vizfetch",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return json.dumps({"identities": [identity]})


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _secret(path: Path) -> str:
    if not path.exists():
        _write(path, secrets.token_hex(24))
    return path.read_text(encoding="utf-8")


def _write(path: Path, content: str) -> None:
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    fresh.write_text(content, encoding="utf-8")
    fresh.chmod(_READABLE)
    fresh.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
