#!/bin/bash
# Install Auth Portal on a fresh Debian 12 or 13, behind nginx with TLS. Run it again to repair an installation,
# or with a newer --certificate: it changes no setting and no key. docs/operations.md has the whole way.
. "$(dirname "$0")/common.sh"

usage() {
  cat <<'TEXT'
Usage: deploy/debian/install.sh --domain NAME (--email ADDRESS | --certificate FILE --key FILE) [--postgres]

  --domain NAME         the host that customers will see, such as verify.acme.example
  --email ADDRESS       get a certificate from Let's Encrypt; it writes to this address before one expires
  --certificate FILE    or use your own: the certificate and its chain, as PEM
  --key FILE            and its private key, as PEM
  --postgres            store everything in PostgreSQL on this machine; without it, in SQLite
TEXT
}

domain="" email="" certificate="" key="" postgres=""
while [ $# -gt 0 ]; do
  case "$1" in
    --domain | --email | --certificate | --key)
      [ $# -ge 2 ] || fail "$1 needs a value."
      declare "${1#--}=$2"
      shift 2
      ;;
    --postgres) postgres=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && fail "there is no option $1." ;;
  esac
done
begin
[[ $domain =~ ^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$ ]] ||
  fail "--domain must be a host name in small letters, such as verify.acme.example."
if [ -n "$email" ]; then
  [ -z "$certificate$key" ] || fail "give either --email, or --certificate and --key."
  [[ $email == *@*.* ]] || fail "--email must be an email address."
else
  if [ -z "$certificate" ] || [ -z "$key" ]; then
    fail "a certificate is missing: give --email, or --certificate and --key."
  fi
fi
if [ -f "$SETTINGS" ] && [ -n "$postgres" ] && ! grep -q '^PORTAL_DATABASE_URL=.*postgresql' "$SETTINGS"; then
  fail "this installation uses SQLite. To move it to PostgreSQL is not supported; leave --postgres out."
fi
if [ -f "$SETTINGS" ] && ! grep -qxF "PORTAL_PUBLIC_URL=\"https://$domain\"" "$SETTINGS"; then
  fail "$SETTINGS is for another address. Change PORTAL_PUBLIC_URL there first."
fi

step "Packages"
packages=(python3 python3-venv nginx openssl ca-certificates curl)
[ -z "$email" ] || packages+=(certbot)
[ -z "$postgres" ] || packages+=(postgresql)
apt-get -o DPkg::Lock::Timeout=300 update -qq
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null

if [ -n "$certificate" ]; then
  openssl x509 -in "$certificate" -noout -checkend 0 >/dev/null 2>&1 ||
    fail "$certificate is no certificate, or it has expired."
  openssl x509 -in "$certificate" -noout -checkhost "$domain" | grep -q "does match" ||
    fail "$certificate is not for $domain."
  [ "$(openssl x509 -in "$certificate" -noout -pubkey)" = "$(openssl pkey -in "$key" -pubout 2>/dev/null)" ] ||
    fail "$key is not the key of $certificate."
fi

step "User and folders"
id auth-portal >/dev/null 2>&1 ||
  useradd --system --user-group --home-dir "$DATA" --shell /usr/sbin/nologin auth-portal
id -nG www-data | grep -qw auth-portal || usermod --append --groups auth-portal www-data # nginx uses the sockets
install -d -o auth-portal -g auth-portal -m 700 "$DATA" "$BACKUPS"
install -d -m 755 /etc/auth-portal "$ROOT_FOLDER" "$ROOT_FOLDER/releases"

step "Code"
release=$(current_release)
if [ -z "$release" ] || ! "$release/bin/auth-portal" version >/dev/null 2>&1; then
  release=$(new_release)
fi
use_release "$release"

step "Settings"
if [ ! -f "$SETTINGS" ]; then
  cores=$(nproc) database=""
  [ -z "$postgres" ] || database='PORTAL_DATABASE_URL="postgresql:///auth_portal?host=/run/postgresql"'
  sed -e "s#@DOMAIN@#$domain#" -e "s#@WORKERS@#$((cores > 1 ? cores / 2 : 1))#" -e "s#@DATABASE@#$database#" \
    "$HERE/environment" >"$SETTINGS.new"
  chmod 600 "$SETTINGS.new" # it may get a password, and nginx's user is in the portal's group
  mv "$SETTINGS.new" "$SETTINGS"
fi
if [ -n "$postgres" ]; then
  as_postgres() { (cd / && setpriv --reuid postgres --regid postgres --init-groups "$@"); }
  [ "$(as_postgres psql -tAc "SELECT 1 FROM pg_roles WHERE rolname = 'auth-portal'")" = 1 ] ||
    as_postgres createuser auth-portal
  [ "$(as_postgres psql -tAc "SELECT 1 FROM pg_database WHERE datname = 'auth_portal'")" = 1 ] ||
    as_postgres createdb --owner auth-portal --encoding UTF8 --template template0 auth_portal
fi

step "Keys and tables"
portal init

step "Services"
systemctl enable --quiet --now "${SERVICES[@]}" auth-portal-backup.timer
auth-portal-restart || fail "the portal does not become ready; see above."

step "Certificate"
if [ -n "$email" ]; then
  live="/etc/letsencrypt/live/$domain"
  if [ ! -f "$SITE" ]; then # certbot shows through nginx that the name is ours
    say "server { listen 80; server_name $domain; location /.well-known/acme-challenge/ { root /var/www/html; } }" >"$SITE"
    systemctl reload-or-restart nginx
  fi
  install -d /var/www/html /etc/letsencrypt/renewal-hooks/deploy
  printf '#!/bin/sh\nsystemctl reload nginx\n' >/etc/letsencrypt/renewal-hooks/deploy/auth-portal
  chmod 755 /etc/letsencrypt/renewal-hooks/deploy/auth-portal
  certbot certonly --quiet --non-interactive --agree-tos --keep-until-expiring --email "$email" --cert-name "$domain" \
    --domain "$domain" --webroot --webroot-path /var/www/html ||
    fail "there is no certificate. Does $domain lead to this machine, and does the internet reach its port 80?"
else
  live=/etc/auth-portal/tls
  install -d -m 700 "$live"
  [ "$certificate" -ef "$live/fullchain.pem" ] || install -m 644 "$certificate" "$live/fullchain.pem"
  [ "$key" -ef "$live/privkey.pem" ] || install -m 600 "$key" "$live/privkey.pem"
fi

step "nginx"
for log in access error; do # nginx would let everyone read them, until they are rotated
  [ -e "/var/log/nginx/auth-portal.$log.log" ] || install -m 640 -o www-data -g adm /dev/null "/var/log/nginx/auth-portal.$log.log"
done
[ ! -L /etc/nginx/sites-enabled/default ] || rm /etc/nginx/sites-enabled/default # this site has a default server itself
new_site=$(mktemp)
site_of "$release" "$domain" "$live" >"$new_site"
if [ -f "$SITE_AS_INSTALLED" ] && [ -f "$SITE" ] && ! cmp -s "$SITE" "$SITE_AS_INSTALLED"; then
  say "  $SITE was edited, so it stays as it is."
  systemctl reload-or-restart nginx
else
  use_site "$new_site" || fail "nginx does not accept the site; see above. Another site may have a default server for port 443."
fi
rm -f "$new_site"

step "Checks"
portal doctor || say "  The doctor found something to do; see above. The portal serves all the same."
say ""
say "Auth Portal is installed at https://$domain/"
if link=$(portal admin create --if-none) && [ -n "$link" ]; then
  say "Open this link now, in your own browser. It makes you the first owner, and works once:"
  say ""
  say "  $link"
  say ""
fi
say "Keep a copy of $DATA/secret_keys on another machine, apart from the backups in /var/backups/auth-portal:"
say "without it no backup can be read."
