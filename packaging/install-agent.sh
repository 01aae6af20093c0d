#!/bin/sh
# Installs the agent from a place of yours, configures and starts it. Again it changes nothing but what is new.
#
#   CASEMATE_FROM    where the packages are: s3://bucket/folder or https://…/folder
#   CASEMATE_SUMS    SHA256SUMS of `npm run package`: names the packages, and what they must be
#   CASEMATE_CONFIG  /etc/casemate/agent.json
set -eu
: "${CASEMATE_FROM:?}" "${CASEMATE_SUMS:?}" "${CASEMATE_CONFIG:?}"

if command -v apt-get > /dev/null; then
  suffix="_$(dpkg --print-architecture)\.deb"
  install() { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes "$1"; }
else
  suffix="\.$(uname -m)\.rpm"
  install() { dnf install --assumeyes "$1"; }
fi
file=$(printf '%s\n' "$CASEMATE_SUMS" | sed -n "s/^[0-9a-f]\{64\}  \(casemate-agent[-_][-+.~0-9A-Za-z]*$suffix\)$/\1/p")
if [ -z "$file" ]; then
  echo "CASEMATE_SUMS names no package that ends in $suffix" >&2
  exit 1
fi

# Before the package, which starts the agent where there is a configuration.
mkdir -p /etc/casemate
printf '%s\n' "$CASEMATE_CONFIG" > /etc/casemate/agent.json.new
if cmp -s /etc/casemate/agent.json.new /etc/casemate/agent.json; then again=start; else again=restart; fi
mv /etc/casemate/agent.json.new /etc/casemate/agent.json

# What is installed already is told by a name of its own: another build of the same version has another sum.
sum=$(printf '%s\n' "$CASEMATE_SUMS" | grep "  $file\$")
if ! command -v casemate-agent > /dev/null || [ "$(cat /etc/casemate/installed 2> /dev/null)" != "$sum" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  case $CASEMATE_FROM in
    s3://*) aws s3 cp --only-show-errors "$CASEMATE_FROM/$file" "$work/$file" ;;
    https://*) curl --fail --silent --show-error --proto '=https' --output "$work/$file" "$CASEMATE_FROM/$file" ;;
    *) echo "CASEMATE_FROM is neither s3:// nor https://" >&2; exit 1 ;;
  esac
  (cd "$work" && printf '%s\n' "$sum" | sha256sum --check --quiet -)
  chmod 755 "$work" # apt reads it as a user of its own
  install "$work/$file"
  printf '%s\n' "$sum" > /etc/casemate/installed
fi
# Not in an image that is being made: its units are enabled.
if [ -d /run/systemd/system ]; then
  systemctl --no-block "$again" casemate-agent.service
  systemctl --no-block start casemate-disks.service
fi
