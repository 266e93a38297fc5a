#!/bin/sh
# What the whole test suite wants besides Python: a real Slurm and a real Chromium, from Debian's or Ubuntu's packages.
# Where they cannot be installed, the tests that need them are left out, and pytest's last lines say so.
set -eu
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "tests/setup.sh: not root, or no apt-get: nothing is installed; tests without their program are left out"
  exit 0
fi
slurm/cluster.sh install
if ! { command -v chromium && command -v chromedriver; } >/dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
fi
