#!/usr/bin/env bash
# Cold copies of the compose stack's volumes, and of its secrets.
set -euo pipefail
umask 077

usage() {
  cat <<'END'
Usage: deploy/compose/volumes.sh backup FOLDER [VOLUME...]
       deploy/compose/volumes.sh restore FOLDER [VOLUME...]

backup    Stops what uses the volumes, copies each to FOLDER, a new one, and starts again what ran.
restore   Makes the volumes from a copy. None of them may be there: `docker compose --profile '*' down --volumes`
          deletes all, `docker volume rm` one. Starts nothing.

VOLUME is a name as in docker-compose.yml, such as kafka-data; without one, all are taken. Which stack it is, compose is
told as always: by COMPOSE_PROJECT_NAME and COMPOSE_FILE, in the environment or in .env.

Exit codes: 0 done, 1 it failed or was refused, 2 wrong usage.
END
}

# Of the secrets, what cannot be made anew from the rest.
readonly SECRETS=(.env .secrets/keys)
fail() {
  echo "volumes.sh: $*" >&2
  exit 1
}

say() {
  echo "$1" >&2
}

# The volumes of this stack that are there, as docker-compose.yml calls them.
volumes_there() {
  docker volume ls --filter "label=com.docker.compose.project=$project" --format '{{.Label "com.docker.compose.volume"}}' \
    | sort
}

tar_of() {
  local mount=$1
  shift
  docker run --rm --interactive --pull never --network none --user 0:0 --volume "$mount" --entrypoint tar "$image" "$@"
}

backup() {
  local folder=$1 volume
  shift
  mapfile -t volumes < <(if (($#)); then printf '%s\n' "$@"; else volumes_there; fi)
  ((${#volumes[@]})) || fail "the project $project has no volumes: is COMPOSE_PROJECT_NAME right?"
  for volume in "${volumes[@]}"; do
    volumes_there | grep --quiet --line-regexp --fixed-strings "$volume" \
      || fail "the project $project has no volume $volume; it has: $(volumes_there | paste --serial --delimiters ' ')"
  done
  mkdir "$folder" || fail "give a folder that is not there yet"

  mapfile -t running < <(docker compose ps --services --status running | sed '/^$/d')
  if ((${#running[@]})); then
    # However this ends, what ran runs again.
    trap 'docker compose start "${running[@]}"' EXIT
    # By name: those of profiles would go on otherwise.
    docker compose stop "${running[@]}"
  fi
  # A container that was started by hand, such as a rebuild, is not among those.
  for volume in "${volumes[@]}"; do
    [[ -z $(docker ps --quiet --filter "volume=${project}_$volume") ]] \
      || fail "a container still uses ${project}_$volume: docker ps --filter volume=${project}_$volume"
  done
  for volume in "${volumes[@]}"; do
    tar_of "${project}_$volume:/volume:ro" --create --sparse --numeric-owner --directory /volume . \
      | gzip -1 >"$folder/$volume.tar.gz"
    say "$volume: $(du --human-readable "$folder/$volume.tar.gz" | cut --fields 1)"
  done
  tar --create --file "$folder/secrets.tar" "${SECRETS[@]}"
  # Written last: a copy without it is not whole.
  (cd "$folder" && sha256sum -- * >.sums && mv .sums SHA256SUMS)
  say "copied to $folder; secrets.tar in it has every password: keep it as you keep those"
}

restore() {
  local folder=$1 volume
  shift
  [[ -f $folder/SHA256SUMS ]] || fail "$folder has no SHA256SUMS: it is no copy, or one that was not finished"
  (cd "$folder" && sha256sum --check --quiet SHA256SUMS) || fail "$folder is damaged: take another copy"
  mapfile -t volumes < <(
    if (($#)); then printf '%s\n' "$@"; else
      (cd "$folder" && for file in *.tar.gz; do echo "${file%.tar.gz}"; done)
    fi
  )
  for volume in "${volumes[@]}"; do
    [[ -f $folder/$volume.tar.gz ]] || fail "$folder has no $volume.tar.gz"
    ! docker volume inspect "${project}_$volume" >/dev/null 2>&1 \
      || fail "the volume ${project}_$volume is there. If what is in it may be lost: docker compose down, then" \
        "docker volume rm ${project}_$volume"
  done
  for volume in "${volumes[@]}"; do
    docker volume create --label "com.docker.compose.project=$project" --label "com.docker.compose.volume=$volume" \
      "${project}_$volume" >/dev/null
    if ! gzip --decompress --stdout "$folder/$volume.tar.gz" \
      | tar_of "${project}_$volume:/volume" --extract --sparse --numeric-owner --same-permissions --directory /volume; then
      # Half a volume must not be taken for a whole one.
      docker volume rm "${project}_$volume" >/dev/null
      fail "the volume $volume could not be filled, and was removed again"
    fi
    say "$volume: restored"
  done
  if [[ -e .env ]]; then
    say "secrets: those that are here (.env) stay"
  else
    tar --extract --same-permissions --file "$folder/secrets.tar"
    say "secrets: restored"
  fi
  say "now: docker compose up --wait"
}

(($# >= 2)) || { usage >&2; exit 2; }
action=$1
mkdir --parents "$(dirname "$2")"
folder=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
project=$(docker compose config --no-interpolate 2>/dev/null | sed --quiet 's/^name: //p')
[[ -n $project ]] || fail "docker compose does not know this stack: does docker compose config work here?"
# Any image with tar would do; this one the stack runs with, or is about to.
image=$(docker compose config --images secrets | head -1)
readonly project image
docker image inspect "$image" >/dev/null 2>&1 || docker compose build secrets

case $action in
  backup) backup "$folder" "$@" ;;
  restore) restore "$folder" "$@" ;;
  *) usage >&2; exit 2 ;;
esac
