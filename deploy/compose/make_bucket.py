"""Makes the bucket of a Compose deployment, if it is not there. Harmless to repeat."""

import sys
import urllib.error
import urllib.request
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path

import obstore
from obstore.store import S3Store

_KEYS = Path("/run/secrets/s3")


def main(endpoint: str, bucket: str) -> None:
    """Ask for it with a signed request to the bucket's own address, as S3's CreateBucket wants."""
    store = S3Store(
        bucket,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=(_KEYS / "access-key").read_text(),
        secret_access_key=(_KEYS / "secret-key").read_text(),
        client_options={"allow_http": True},
    )
    request = urllib.request.Request(obstore.sign(store, "PUT", "", timedelta(minutes=1)), method="PUT")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - the address stands in docker-compose.yml
            print(f"bucket {bucket} made")
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.CONFLICT:
            raise
        print(f"bucket {bucket} is there")


if __name__ == "__main__":
    main(*sys.argv[1:])
