#!/usr/bin/env bash
# Installs the system packages that tests need, when absent: Chromium for browser tests, PostgreSQL for the store's.
# Without root it names them; the tests that need them are then skipped with that reason, except in CI.
set -euo pipefail

missing=()
command -v chromium >/dev/null || missing+=(chromium)
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing+=(postgresql)
command -v strace >/dev/null || missing+=(strace)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "Not installed here: ${missing[*]}. Tests that need them will be skipped."
  [ "${CI:-}" = true ] && exit 1
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# A package of a server usually starts it: the tests start their own, so nothing else may run.
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
trap 'rm -f /usr/sbin/policy-rc.d' EXIT
apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
