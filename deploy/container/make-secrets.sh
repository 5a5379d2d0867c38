#!/bin/bash
# Make the files of secrets that compose.yaml needs, for the user of the containers. Run it as root. It replaces nothing
# but the certificate and empty files: run it again with the next certificate, or after it failed.
set -euo pipefail
umask 077

if [ $# -ne 2 ] || [ "$(id -u)" != 0 ]; then
  echo "Usage, as root: deploy/container/make-secrets.sh CERTIFICATE KEY" >&2
  echo "CERTIFICATE has the whole chain, and both are PEM files." >&2
  exit 2
fi
for file in "$1" "$2"; do
  [ -s "$file" ] || { echo "$file is missing or empty." >&2; exit 1; }
done
folder=${AUTH_PORTAL_SECRETS:-$(dirname "$0")/secrets}
install -d -m 700 "$folder"

# Write a file that is not there yet, or empty. Values are assigned before: a command that fails within an argument does
# not end this script.
store() {
  [ -n "$2" ] || { echo "No value could be made for $1." >&2; exit 1; }
  [ -s "$folder/$1" ] || { printf '%s' "$2" >"$folder/.new" && mv "$folder/.new" "$folder/$1"; }
}

value=$(openssl rand -hex 32)
store database-password "$value"
value=$(cat "$folder/database-password")
if grep -qsF "//portal:@" "$folder/database-url"; then rm "$folder/database-url"; fi # made while the password was empty
store database-url "postgresql://portal:$value@database/portal"
value=$(openssl rand -base64 48)
store secret-keys "$value"
value=$(openssl rand -hex 32)
store metrics-token "$value"
cat "$1" >"$folder/fullchain.pem"
cat "$2" >"$folder/privkey.pem"
chmod 400 "$folder"/*
chown 10001:10001 "$folder"/* # as the image has it
echo "Made in $folder. Keep a copy of secret-keys on another machine, apart from backups: without it none can be read."
