#!/bin/sh
# Waits until a disk that Casemate opened is mounted on the directory; any other file system there does not count.
said=
until findmnt --noheadings --output SOURCE --mountpoint "$1" | grep -q '^/dev/mapper/casemate-vol-'; do
  [ -n "$said" ] || echo "casemate: waiting for the disk of $1" >&2
  said=yes
  sleep 1
done
