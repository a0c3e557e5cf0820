#!/usr/bin/env bash
# Builds Calor with its tests (installing what is missing on Debian) and runs all of them, sanitizer builds included.
#   ./test.sh                     everything
#   ./test.sh --quick             the release build's tests only
#   ./test.sh --suite unit …      arguments for `meson test` on the release build only
set -u
cd "$(dirname "$0")" || exit 1
. ./setup.sh

full=1
[ $# -eq 0 ] || full=0
[ "${1:-}" = --quick ] && shift

calor_packages libcmocka-dev glpk-utils strace clang clang-format-14 libclang-rt-14-dev python3-venv python3-torch
calor_python
logs=()
status=0

# suite DIR "meson setup options" "meson test arguments…": builds and runs, remembers the log
suite()
{
    local dir=$1 options=$2
    shift 2
    # shellcheck disable=SC2086
    calor_build "$dir" -Dtests=enabled $options
    echo "== $dir $options"
    rm -f "$dir/meson-logs/testlog.json" # so that an old one is never counted
    meson test -C "$dir" --no-rebuild --print-errorlogs "$@" || status=1
    logs+=("$dir/meson-logs/testlog.json")
}

suite build "" "$@"
if [ $full = 1 ]; then
    suite build-asan "-Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false" --no-suite lint -t 4
    suite build-tsan "-Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false" --suite threads -t 4
    if command -v clang >/dev/null; then
        export CC=clang
        suite build-clang "" --suite unit --suite kern --suite fuzz
    fi
fi
python3 tests/count.py "${logs[@]}" || status=1
exit $status
