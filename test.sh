#!/usr/bin/env bash
# Builds Calor with its tests (installing what is missing on Debian) and runs all of them.
# ./test.sh [meson test arguments…], for example ./test.sh --suite unit
set -u
cd "$(dirname "$0")" || exit 1
. ./setup.sh
calor_packages libcmocka-dev
calor_build build -Dtests=enabled
meson test -C build --no-rebuild --print-errorlogs "$@"
status=$?
python3 tests/count.py build/meson-logs/testlog.json || status=1
exit $status
