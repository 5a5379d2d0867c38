#!/bin/bash
# Upgrade an installation of install.sh to the code of this folder, without refusing a request: backup, new code next
# to the old, tables, then one service after the other.
. "$(dirname "$0")/common.sh"
[ $# = 0 ] || fail "upgrade.sh takes no options."
begin
must_be_installed
before=$(current_release)

step "Backup"
portal backup "$BACKUPS/upgrades" --keep 3

step "Code"
release=$(new_release)
printf '%s\n' "$before" >"$release/previous"

step "Tables"
portal_of "$release" db upgrade || fail "the tables were not upgraded. The old version serves on."

step "Services"
use_release "$release"
if ! auth-portal-restart; then
  if portal_of "$before" db check >/dev/null 2>&1; then
    use_release "$before"
    auth-portal-restart || fail "neither version becomes ready. See: journalctl -u 'auth-portal-*'"
    fail "the new version did not become ready, so the old one serves again."
  fi
  fail "the new version did not become ready, and the old one cannot serve its tables. The servers that were
  not restarted keep running. Find the reason (journalctl -u 'auth-portal-*'), or restore the backup in $BACKUPS/upgrades."
fi

step "nginx"
domain=$(sed -n 's#^PORTAL_PUBLIC_URL="https://\(.*\)"$#\1#p' "$SETTINGS")
live=$(sed -n 's#^ *ssl_certificate  *\(.*\)/fullchain.pem;$#\1#p' "$SITE" | head -n 1)
site_of "$release" "$domain" "$live" >/etc/auth-portal/nginx-site.new
if cmp -s "$SITE" "$SITE_AS_INSTALLED"; then
  use_site /etc/auth-portal/nginx-site.new || say "  nginx does not accept the new site; the old one stays."
elif ! cmp -s "$SITE" /etc/auth-portal/nginx-site.new; then
  say "  $SITE was edited, so it stays as it is. The new one is /etc/auth-portal/nginx-site.new: compare them."
fi
for old in "$ROOT_FOLDER"/releases/*; do
  [ "$old" = "$release" ] || [ "$old" = "$before" ] || rm -rf "$old"
done
say "Auth Portal $(portal version) serves. To go back: deploy/debian/rollback.sh"
