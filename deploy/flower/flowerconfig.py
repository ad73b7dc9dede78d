"""Flower's own settings; it reads them as Python."""

from pathlib import Path

basic_auth = ["vizfetch:" + Path("/run/secrets/flower/password").read_text(encoding="utf-8")]
inspect_timeout = 1000.0
max_tasks = 1000
