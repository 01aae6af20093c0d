#!/bin/sh
# The agent on its own Node; options for other Nodes on this machine do not reach it. It mostly waits: without a compiler
# that optimises, with a small young generation, one thread of V8's own, one arena of malloc's, and what was freed given
# back, it is 13 MB smaller (measured).
unset NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE
export MALLOC_ARENA_MAX=1
export MALLOC_TRIM_THRESHOLD_=65536
export MALLOC_MMAP_THRESHOLD_=65536
exec /usr/lib/casemate/bin/node --lite-mode --max-semi-space-size=1 --v8-pool-size=1 /usr/lib/casemate/agent/main.mjs "$@"
