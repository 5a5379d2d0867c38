# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share. They run as root on Debian 12 or 13.
set -euo pipefail
shopt -s inherit_errexit
umask 022

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PROJECT=$(cd "$HERE/../.." && pwd)
ROOT_FOLDER=/opt/auth-portal # releases, and "current", which leads to the one that serves
SETTINGS=/etc/auth-portal/environment
DATA=/var/lib/auth-portal
BACKUPS=/var/backups/auth-portal
SITE=/etc/nginx/conf.d/auth-portal.conf
SITE_AS_INSTALLED=/etc/auth-portal/nginx-site
SERVICES=(auth-portal-web@1 auth-portal-web@2 auth-portal-dispatch)
BUILT_WITH="hatchling packaging pathspec pluggy tomlkit trove-classifiers whitenoise"

say() { printf '%s\n' "$*"; }
step() { printf '→ %s\n' "$*"; }
fail() {
  printf 'Stopped: %s\n' "$*" >&2
  exit 1
}

begin() {
  [ "$(id -u)" = 0 ] || fail "run this as root."
  # shellcheck source=/dev/null
  . /etc/os-release
  case "${ID:-}-${VERSION_ID:-}" in
    debian-12 | debian-13) ;;
    *) fail "this script is for Debian 12 and 13, and this is ${PRETTY_NAME:-something else}. See docs/operations.md." ;;
  esac
  [ -d /run/systemd/system ] || fail "systemd does not run here."
  exec 9>/run/auth-portal-install.lock
  flock --nonblock 9 || fail "another of these scripts is at work."
}

must_be_installed() {
  { [ -f "$SETTINGS" ] && [ -n "$(current_release)" ]; } || fail "Auth Portal is not installed here. Run deploy/debian/install.sh."
}

# The lines of these packages in the project's requirements, with their hashes.
pins_of() {
  awk -v wanted=" $1 " '/^[A-Za-z0-9]/ { split($1, name, "=="); on = index(wanted, " " tolower(name[1]) " ") } on' \
    "$PROJECT/requirements-dev.txt"
}

# Install this project's code into a virtual environment that has its requirements already. What it is built in goes to
# the second folder, which the caller removes: the build writes into the folder that it builds from, and its own tools
# are no part of what serves.
install_code() {
  local environment="$1" workplace="$2"
  mkdir "$workplace/code"
  (cd "$PROJECT" && tar -c --exclude=./.git --exclude=./.venv --exclude=./instance .) | tar -x -C "$workplace/code"
  pins_of "$BUILT_WITH" >"$workplace/pins"
  python3 -m venv "$workplace/tools"
  "$workplace/tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$workplace/pins" >&2
  "$workplace/tools/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$workplace" "$workplace/code" >&2
  "$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps "$workplace"/*.whl >&2
  # Who serves may not write here. Some packages have files for other Pythons.
  "$environment/bin/python3" -m compileall -q -o 2 "$environment/lib" >/dev/null || true
  "$environment/bin/python3" "$PROJECT/deploy/compile_templates.py"
}

# Install this project's code next to the releases that are there; print the folder of the new one.
new_release() {
  local making="$ROOT_FOLDER/releases/making" workplace release
  mkdir -p "$ROOT_FOLDER/releases"
  rm -rf "$making"
  workplace=$(mktemp -d)
  # shellcheck disable=SC2064 # both names as they are now
  trap "rm -rf '$making' '$workplace'" EXIT
  python3 -m venv "$making"
  "$making/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$PROJECT/requirements.txt" >&2
  install_code "$making" "$workplace"
  mkdir -p "$making/docs" "$making/deploy"
  cp "$PROJECT"/docs/*.md "$making/docs/"
  cp -r "$PROJECT/deploy/debian" "$PROJECT/deploy/nginx" "$making/deploy/"
  release="$ROOT_FOLDER/releases/$("$making/bin/auth-portal" version)-$(date -u +%Y%m%dT%H%M%SZ)"
  # The paths in its commands are those of its final place.
  { grep -rlIZ "$making" "$making/bin" "$making/pyvenv.cfg" || true; } | xargs -0 -r sed -i "s#$making#$release#g"
  mv "$making" "$release"
  printf '%s\n' "$release"
}

current_release() { readlink -e "$ROOT_FOLDER/current" || true; }

# Run a command of one release as the portal's user, with the settings as its services get them.
portal_of() {
  systemd-run --quiet --wait --collect --pipe --service-type=exec --property=User=auth-portal \
    --property=Group=auth-portal --property=EnvironmentFile=$SETTINGS --property=WorkingDirectory=$DATA \
    --property=UMask=0077 -- "$1/bin/auth-portal" "${@:2}"
}
portal() { portal_of "$(current_release)" "$@"; }

# Make this the release that serves from the next start of each service on.
use_release() {
  ln -sfn "$1" "$ROOT_FOLDER/current.new"
  mv -T "$ROOT_FOLDER/current.new" "$ROOT_FOLDER/current"
  local unit
  for unit in "$1"/deploy/debian/*.service "$1"/deploy/debian/*.timer; do
    install -m 644 "$unit" "/etc/systemd/system/$(basename "$unit")"
  done
  install -m 755 "$1"/deploy/debian/auth-portal "$1"/deploy/debian/auth-portal-restart /usr/local/sbin/
  install -d -m 755 /usr/share/auth-portal/pages
  install -m 644 "$1"/deploy/nginx/pages/* /usr/share/auth-portal/pages/
  systemctl daemon-reload
}

# Print the nginx site of a release for this machine.
site_of() {
  local http2=(-e ';')
  if dpkg --compare-versions "$(dpkg-query -W -f '${Version}' nginx)" ge 1.25.1; then # where it has a line of its own
    http2=(-e 's/^\( *listen 443 ssl\) http2/    http2 on;\n\1/' -e 's/^\( *listen .*ssl\) http2/\1/')
  fi
  sed -e "s#/etc/letsencrypt/live/verify.example.com#$3#" -e "s/verify\.example\.com/$2/g" "${http2[@]}" \
    "$1/deploy/nginx/auth-portal.conf"
}

# Put a site in place if nginx accepts it, and the old one back if not.
use_site() {
  [ ! -f "$SITE" ] || cp -p "$SITE" "$SITE.before"
  install -m 644 "$1" "$SITE"
  if ! nginx -q -t; then
    rm -f "$SITE"
    [ ! -f "$SITE.before" ] || mv "$SITE.before" "$SITE"
    return 1
  fi
  rm -f "$SITE.before"
  install -m 644 "$1" "$SITE_AS_INSTALLED"
  systemctl reload-or-restart nginx
}
