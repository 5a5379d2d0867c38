#!/bin/bash
# What the proxy of compose.yaml runs: nginx with the site of deploy/nginx for this domain, certificate and log.
. "$(dirname "$0")/../debian/common.sh"

site_of "$PROJECT" "$AUTH_PORTAL_DOMAIN" /run/secrets |
  sed -e 's#/var/log/nginx/auth-portal.access.log#/dev/stdout#' \
    -e 's#/var/log/nginx/auth-portal.error.log#/dev/stderr#' >/tmp/auth-portal.conf
exec nginx -e /dev/stderr -c "$PROJECT/deploy/container/nginx.conf"
