"""Runs a command that ends with its parent, however the parent ends: supervise.py COMMAND ARGUMENT...

Linux delivers the signal that PR_SET_PDEATHSIG names when the parent dies; execve keeps the setting.
Elsewhere the command runs unsupervised.
"""
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if sys.platform == "linux":
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
os.execvp(sys.argv[1], sys.argv[1:])
