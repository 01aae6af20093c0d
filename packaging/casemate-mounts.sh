#!/bin/sh
# systemd.generator(7): the mounts that the agent made, so that services which say RequiresMountsFor= wait for them
# at the next boot, however late the disk is opened. Always from here, whatever stateDir the agent is configured with:
# a generator runs before anything else and is no place to read JSON.
if [ -d /var/lib/casemate/mounts ]; then cp -R /var/lib/casemate/mounts/. "$1"; fi
