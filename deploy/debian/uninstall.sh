#!/bin/bash
# Remove Auth Portal from this machine: services, site and code. Data, keys, settings and backups stay, except with
# --purge, which asks first.
. "$(dirname "$0")/common.sh"
case "${1:-}" in
  "" | --purge) [ $# -le 1 ] || fail "uninstall.sh takes one option at most, --purge." ;;
  *) fail "there is no option $1. Usage: deploy/debian/uninstall.sh [--purge]" ;;
esac
begin
if [ "${1:-}" = --purge ]; then
  printf 'Delete all data, keys, settings and backups of this machine for ever? Type "delete": '
  read -r answer || answer=""
  [ "$answer" = delete ] || fail "nothing was removed."
fi
systemctl disable --quiet --now "${SERVICES[@]}" auth-portal-backup.timer 2>/dev/null || true
rm -rf /etc/systemd/system/auth-portal-* "$SITE" "$SITE_AS_INSTALLED" /etc/auth-portal/nginx-site.new \
  /usr/local/sbin/auth-portal /usr/local/sbin/auth-portal-restart "$ROOT_FOLDER" /usr/share/auth-portal \
  /etc/letsencrypt/renewal-hooks/deploy/auth-portal
systemctl daemon-reload
systemctl reload-or-restart nginx || true
if [ "${1:-}" = --purge ]; then
  rm -rf "$DATA" /etc/auth-portal "$BACKUPS"
  say "Deleted: code, data, keys, settings and backups. Still there: the user auth-portal, the certificate of certbot, nginx's"
  say "logs, and a database of PostgreSQL (runuser -u postgres -- dropdb auth_portal)."
else
  say "Removed. Data and keys are still in $DATA, settings in /etc/auth-portal, backups in $BACKUPS."
fi
