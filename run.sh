#!/usr/bin/env bash
# Builds Calor (installing what is missing on Debian) and runs it.  ./run.sh [calor arguments…]
set -eu
cd "$(dirname "$0")"
. ./setup.sh
calor_packages
calor_build build
exec build/calor "$@"
