#!/bin/sh
# Entry point of the agent's image.  It translates and decides nothing: each documented name without a prefix
# becomes TRUNNEL_<NAME>, unless that is set; `trunnel expose` does the rest, and refuses what is wrong.
# An empty value counts as none.  Words on the command line go to `trunnel expose`; `health` alone is the image's check.
set -eu

for name in SERVER LOCAL DOMAIN_SUFFIX PRIMARY_KEY FORCE_H2 POOL_SIZE ACME_EMAIL ACME_CREDS_PATH ACME_STAGING \
  CERT_PEM PRIMARY_CERT_EXTENSION_HEX SECONDARY_KEY SECONDARY_CERT_EXTENSION_HEX; do
  eval "plain=\${$name:-} prefixed=\${TRUNNEL_$name:-}"
  if [ -n "$plain" ] && [ -z "$prefixed" ]; then
    export "TRUNNEL_$name=$plain"
  fi
done

if [ "$*" = health ]; then
  exec trunnel health agent
fi
exec trunnel expose "$@"
