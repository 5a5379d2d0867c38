#!/bin/bash
# Make the files of secrets that compose.yaml needs, for the user of the containers. Run it as root. It replaces nothing
# but the certificate: run it again with the next one.
set -euo pipefail
umask 077

if [ $# -ne 2 ] || [ "$(id -u)" != 0 ]; then
  echo "Usage, as root: deploy/container/make-secrets.sh CERTIFICATE KEY" >&2
  echo "CERTIFICATE has the whole chain, and both are PEM files." >&2
  exit 2
fi
folder=${AUTH_PORTAL_SECRETS:-$(dirname "$0")/secrets}
install -d -m 700 "$folder"

# Write a file that is not there yet.
store() { [ -e "$folder/$1" ] || printf '%s' "$2" >"$folder/$1"; }

store database-password "$(openssl rand -hex 32)"
store database-url "postgresql://portal:$(cat "$folder/database-password")@database/portal"
store secret-keys "$(openssl rand -base64 48)"
store metrics-token "$(openssl rand -hex 32)"
cat "$1" >"$folder/fullchain.pem"
cat "$2" >"$folder/privkey.pem"
chmod 400 "$folder"/*
chown 10001:10001 "$folder"/* # as the image has it
echo "Made in $folder. Keep a copy of secret-keys on another machine, apart from backups: without it none can be read."
