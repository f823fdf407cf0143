#!/bin/bash
# Runs a command where it may mount a tmpfs: in a mount namespace of its own, or in a user namespace too. Where neither is
# allowed says so; the tests that need one skip then. What is mounted goes with the command, even if it is killed.
for flags in -m -Urm; do
  if reason=$(unshare "$flags" mount -t tmpfs emoe-test /mnt 2>&1); then
    exec unshare "$flags" "$@"
  fi
done
echo "no tmpfs may be mounted here: $reason"
exec "$@"
