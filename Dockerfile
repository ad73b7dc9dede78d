# One image for everything: docker run IMAGE worker, scheduler, submit …

FROM python:3.11-slim-bookworm AS build

# Process 1 of a container has to pass on signals and to bury the orphans that killed builds leave.
# Debian keeps one version of it in a release.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/vizfetch
COPY requirements.txt /build/
RUN /opt/vizfetch/bin/pip install --require-hashes --requirement /build/requirements.txt
COPY . /build/
# pip stays, since every job runs it; what only builds this package goes.
RUN /opt/vizfetch/bin/pip install --no-deps --no-build-isolation --no-index /build \
    && /opt/vizfetch/bin/pip uninstall --yes setuptools


FROM python:3.11-slim-bookworm

ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="vizfetch" \
      org.opencontainers.image.description="Fetches visualization packages with everything they need from private indexes and publishes them as wheel bundles." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"

# The base image comes without compiled modules, and nobody may write them later. Volumes that are first mounted over
# these directories take their owner.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$(python -c 'import os; print(os.path.dirname(os.__file__))')" \
    && groupadd --gid 10001 vizfetch \
    && useradd --uid 10001 --gid vizfetch --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin vizfetch \
    && install -d -o vizfetch -g vizfetch -m 700 /var/cache/vizfetch /var/tmp/vizfetch \
    && install -d -o vizfetch -g vizfetch /run/secrets /run/secrets/api /run/secrets/redis /run/secrets/s3 \
       /run/secrets/valkey /run/secrets/storage /run/secrets/grafana /run/secrets/flower

COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build /opt/vizfetch /opt/vizfetch
COPY deploy/health.py /opt/vizfetch/health.py

ENV PATH=/opt/vizfetch/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MODERNE_AGENT_VISUALIZATION_CACHE_DIRECTORY=/var/cache/vizfetch \
    MODERNE_AGENT_VISUALIZATION_TEMPORARYDIRECTORY=/var/tmp/vizfetch
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/vizfetch/health.py"]
ENTRYPOINT ["tini", "--", "vizfetch"]
CMD ["--help"]
