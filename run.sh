#!/usr/bin/env bash
# Builds Calor (installing what is missing on Debian) and runs it.
#   ./run.sh                      the bundled model tells a story
#   ./run.sh ARGUMENTS…           calor with these arguments, for example ./run.sh run MODEL.gguf -p "Once upon a time"
set -eu
cd "$(dirname "$0")"
. ./setup.sh
calor_packages
calor_build build
[ $# -gt 0 ] || set -- run models/calor-stories.gguf -p "Once upon a time" -n 200 --seed 1
exec build/calor "$@"
