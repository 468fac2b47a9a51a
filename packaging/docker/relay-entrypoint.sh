#!/bin/sh
# Entry point of the relay's image.  It translates and decides nothing: each documented name without a prefix
# becomes TRUNNEL_<NAME>, unless that is set; `trunnel serve` does the rest, and refuses what is wrong.
# An empty value counts as none.  Words on the command line go to `trunnel serve`.
set -eu

for name in BIND_ADDR API_PORT PUB_PORT ALPN_PORT DOMAIN_SUFFIX TLS_CERT TLS_KEY \
  ACME_DOMAIN ACME_EMAIL ACME_CREDS_PATH ACME_STAGING ACME_RENEW_DAYS; do
  eval "plain=\${$name:-} prefixed=\${TRUNNEL_$name:-}"
  if [ -n "$plain" ] && [ -z "$prefixed" ]; then
    export "TRUNNEL_$name=$plain"
  fi
done

exec trunnel serve "$@"
