#!/usr/bin/env bash
# Proves the Compose deployment on any machine with Docker, Compose and git: from an empty clone, first the commands of
# the README as they stand there, then a batch over four workers of which one is killed.
#
#   tests/compose/prove.sh [--keep] [--offline]
#
# --keep leaves everything running; --offline leaves out the README's commands, which need the public index.
# Everything has names of its own: a deployment that runs on this machine is not touched.
set -euo pipefail
cd "$(dirname "$0")/../.."

keep= offline=
for argument in "$@"; do
  case $argument in
    --keep) keep=1 ;;
    --offline) offline=1 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done

export COMPOSE_PROJECT_NAME=vizfetch-prove VIZFETCH_PORT=${VIZFETCH_PORT:-18080}
place=$(mktemp -d)
clone=$place/vizfetch

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
proof() { docker compose -f docker-compose.yml -f deploy/compose/docker-compose.override.yml -f tests/compose/index.yml "$@"; }
cli() { proof run --rm --no-deps -T cli "$@" 2>>"$place/cli.log"; }
field() { python3 -c "import json, sys; found = json.load(sys.stdin); print($1)"; }

finish() {
  local code=$?
  if [[ $code != 0 && -d $clone ]]; then
    proof ps --all >&2 || true
    proof logs --tail 15 >&2 || true
    cat "$place/cli.log" >&2 || true
  fi
  if [[ -z $keep ]]; then
    (cd "$clone" && proof --profile '*' down --volumes --timeout 30 >/dev/null 2>&1) || true
    rm -rf "$place"
  fi
  exit "$code"
}
trap finish EXIT

say "an empty clone, and the image from it"
git clone --quiet . "$clone"
cd "$clone"
install -d -m 700 secrets
python3 -c 'import secrets; print(secrets.token_hex(16))' >secrets/pypi-0-token
chmod 644 secrets/pypi-0-token
docker compose --profile '*' config --quiet
proof --profile '*' config --quiet
docker compose build --quiet 2>>"$place/cli.log"
image=$(docker compose config --images | sort --unique | grep '^vizfetch:')
docker image inspect "$image" --format '{{.RepoTags}} {{.Size}} bytes, user {{.Config.User}}, entry {{.Config.Entrypoint}}'

say "nothing in the image that does not belong there"
docker run --rm --user 0 --entrypoint sh "$image" -c '
  ls -d /build ~root/.cache /var/lib/apt/lists/*_* 2>/dev/null
  find /run/secrets /var/cache/vizfetch /var/tmp/vizfetch -type f
  find / -xdev -name .git -o -xdev -name "*.env" ! -path "*/site-packages/config/vizfetch.env"
  python -c "import setuptools; print(setuptools.__file__)" 2>/dev/null
  true' >"$place/left.txt"
[[ ! -s $place/left.txt ]] || fail "left in the image: $(cat "$place/left.txt")"
docker image inspect "$image" --format '{{range .Config.Env}}{{println .}}{{end}}' |
  { ! grep -iE '(password|token|secret|key)[a-z_]*=' | grep -v '^GPG_KEY='; } || fail "a secret in the image's environment"

say "read-only, without a home and without a network of its own: does the environment contract hold?"
docker run --rm --read-only --network none --cap-drop ALL --security-opt no-new-privileges \
  --tmpfs /var/tmp/vizfetch:exec,uid=10001,mode=700 --tmpfs /var/cache/vizfetch:exec,uid=10001,mode=700 \
  "$image" check --json --moderne.agent.visualization.minFreeSpace=1MiB >"$place/check.json" 2>/dev/null || true
field '"\n".join(f"{f['"'subject'"']}: {f['"'found'"']}" for f in found["findings"] if not f["subject"].startswith(("index", "Redis", "store")))' <"$place/check.json"
field 'all(f["verdict"] == "holds" for f in found["findings"] if not f["subject"].startswith(("index", "Redis", "store")))' \
  <"$place/check.json" | grep -qx True || fail "the contract does not hold in the container"

say "the commands of docs/operations.md for the image, as they stand there"
sed -n '/^## Containers/,/^## /{/^```sh$/,/^```$/{/^```/!p}}' docs/operations.md >"$place/operations.sh"
cat "$place/operations.sh"
# There is no Redis and no store beside it, which is what the check has to say.
bash -eu "$place/operations.sh" </dev/null >"$place/operations.txt" 2>>"$place/cli.log" && fail "check found a Redis"
grep -q 'moderne.agent.visualization.redis' "$place/operations.txt" || fail "the image's check: $(cat "$place/operations.txt")"

if [[ -z $offline ]]; then
  say "the README's commands, as they stand there"
  sed -n '/^## With containers/,/^## /{/^```sh$/,/^```$/{/^```/!p}}' README.md >"$place/readme.sh"
  cat "$place/readme.sh"
  bash -eux "$place/readme.sh" </dev/null 2>&1 | grep -v ' Container \| Network \| Volume ' || fail "the README's commands"
  docker compose down --volumes 2>>"$place/cli.log"
fi

say "four workers, and an index behind a token"
proof up --detach --wait --scale worker=4 2>>"$place/cli.log"
proof ps --format '{{.Name}} {{.Status}}'
cli check --json >"$place/check.json" || fail "check: $(cat "$place/check.json")"
field 'found["verdict"]' <"$place/check.json"

say "a batch of 40, and a worker killed in the middle"
seq -f 'proof-%g' 40 >"$place/packages.txt"
batch=$(proof run --rm -T -v "$place/packages.txt:/packages.txt:ro" cli submit -r /packages.txt --json 2>>"$place/cli.log" | field 'found["id"]')
victim=
for _ in $(seq 30); do
  victim=$(cli agents --json | field 'next((a["host"] for a in found["agents"] if a["running"]), "")')
  [[ -z $victim ]] || break
done
[[ -n $victim ]] || fail "no worker took a job"
docker kill --signal KILL "$victim" >/dev/null
echo "killed $victim: $(cli status "$batch" --json | field 'found["counts"]')"
for _ in $(seq 60); do
  cli status "$batch" --json >"$place/batch.json" || true
  field 'found["counts"]["queued"] + found["counts"]["running"]' <"$place/batch.json" | grep -qx 0 && break
  sleep 1
done
field 'found["counts"]' <"$place/batch.json"
echo "given to another worker: $(field 'sum(job["attempt"] > 1 for job in found["jobs"])' <"$place/batch.json") jobs"
field 'found["counts"]["published"] == 40 and any(job["attempt"] > 1 for job in found["jobs"])' <"$place/batch.json" |
  grep -qx True || fail "the batch is not whole"
cli verify --all >"$place/verify.txt" || fail "verify: $(cat "$place/verify.txt")"
tail -n 1 "$place/verify.txt"

say "the metrics page after it"
python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())' \
  "http://127.0.0.1:$VIZFETCH_PORT/actuator/prometheus" >"$place/metrics.txt"
grep -E '^vizfetch_(jobs|jobs_ended_total|retries_total|lease_losses_total|queue_due_jobs|queue_age_seconds|agents[a-z_]*|redis_up|loop[a-z_]*)[{ ]' \
  "$place/metrics.txt"
grep -qE '^vizfetch_jobs_ended_total\{.*state="published".*\} 40(\.0)?$' "$place/metrics.txt" ||
  fail "the metrics do not have the batch"

say "a bundle from the store, installed without an index"
install -d -m 777 "$place/out"
proof run --rm -T -v "$place/out:/out" cli pull proof-1 /out/proof-1 2>>"$place/cli.log" >/dev/null
docker run --rm --network none --read-only --tmpfs /tmp:exec -v "$place/out:/out:ro" --entrypoint sh "$image" -c '
  python -m venv --without-pip /tmp/v && python -m pip --python /tmp/v/bin/python install --quiet --no-index --no-cache-dir \
    --disable-pip-version-check -r /out/proof-1/pylock.toml && /tmp/v/bin/python -c "import proof_1; print(proof_1.__file__)"'

say "SIGTERM: every worker ends by itself, in time"
proof stop worker scheduler 2>>"$place/cli.log"
for container in $(proof ps --all --quiet worker scheduler); do
  docker inspect "$container" --format '{{.Name}} exit {{.State.ExitCode}}, read-only {{.HostConfig.ReadonlyRootfs}}'
  [[ ${victim:0:12} == "${container:0:12}" || $(docker inspect "$container" --format '{{.State.ExitCode}}') == 0 ]] ||
    fail "a service did not end by itself"
done

say "nothing is left"
[[ -n $keep ]] || { proof --profile '*' down --volumes 2>>"$place/cli.log"; }
docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" | { ! grep .; } || [[ -n $keep ]] ||
  fail "containers are left"
echo "proved"
