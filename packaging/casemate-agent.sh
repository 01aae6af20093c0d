#!/bin/sh
# The agent on its own Node. Options for other Nodes on this machine do not reach it. What it is given is on
# docs/agent.md; a young generation of 1 MiB keeps it small, for it mostly waits.
unset NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE
exec /usr/lib/casemate/bin/node --max-semi-space-size=1 /usr/lib/casemate/agent/main.mjs "$@"
