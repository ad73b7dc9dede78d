"""Makes the secrets of a Compose deployment, once, each in a volume that only those who need it mount.

Passwords, keys and tokens are random, and stay as they are when this runs again. The files that servers read are made
from them each time. They can be read by every user of a container, since each container has its own; on the host, only
root gets to the volumes.
"""

import hashlib
import json
import secrets
from pathlib import Path

_ROOT = Path("/run/secrets")
_READABLE = 0o444

# What docs/operations.md says that vizfetch needs; Flower listens to the workers' events as well.
_VIZFETCH = "~vizfetch:* -@all +@read +@write +@connection +@transaction +eval +evalsha +script|load +time -@dangerous"
_FLOWER = "~vizfetch:celery:* &* -@all +@read +@write +@pubsub +@connection +@transaction -@dangerous"
# The health check asks without a password, and may do nothing else.
_ANYBODY = "user default on nopass resetkeys resetchannels -@all +ping"


def main() -> None:
    """Make what is missing."""
    password = _secret("redis/password")
    watching = _secret("flower/redis-password")
    _secret("flower/password")
    _secret("api/token")
    _secret("grafana/password")
    keys = _secret("s3/access-key"), _secret("s3/secret-key")
    _write("valkey/users.acl", _users(password, watching))
    _write("storage/s3.json", _identities(*keys))


def _users(password: str, watching: str) -> str:
    # The server gets digests: whoever reads its volume cannot log in.
    return "\n".join((
        _ANYBODY,
        f"user vizfetch on #{_digest(password)} resetchannels {_VIZFETCH}",
        f"user flower on #{_digest(watching)} {_FLOWER}",
        "",
    ))  # fmt: skip


def _identities(access_key: str, secret_key: str) -> str:
    identity = {
        "name": "vizfetch",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return json.dumps({"identities": [identity]})


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _secret(name: str) -> str:
    path = _ROOT / name
    if not path.exists():
        _write(name, secrets.token_hex(24))
    return path.read_text()


def _write(name: str, content: str) -> None:
    path = _ROOT / name
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    fresh.write_text(content)
    fresh.chmod(_READABLE)
    fresh.replace(path)


if __name__ == "__main__":
    main()
