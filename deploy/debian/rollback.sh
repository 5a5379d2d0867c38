#!/bin/bash
# Go back to the version that served before the last upgrade.sh, if it can work with the tables as they are now.
. "$(dirname "$0")/common.sh"
[ $# = 0 ] || fail "rollback.sh takes no options."
begin
must_be_installed
now=$(current_release)
[ -f "$now/previous" ] || fail "there is no version to go back to."
before=$(cat "$now/previous")
[ -x "$before/bin/auth-portal" ] || fail "$before is no longer there."
portal_of "$before" db check >/dev/null || fail "the version before cannot serve the tables of this one, and nothing was
  changed. To go back all the same, restore the backup that upgrade.sh made in $BACKUPS/upgrades."
use_release "$before"
auth-portal-restart || fail "a service does not become ready. See: journalctl -u 'auth-portal-*'"
say "Auth Portal $(portal version) serves."
