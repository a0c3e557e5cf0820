# Shared by run.sh and test.sh: installs missing Debian packages and builds. Sourced, not run.

PACKAGES="gcc libc6-dev meson ninja-build pkg-config python3 libhwloc-dev liburing-dev libzstd-dev libxxhash-dev libjansson-dev libpcre2-dev"

# Installs the packages of $PACKAGES (and the arguments) that are not there yet.
calor_packages()
{
    local missing="" p
    for p in $PACKAGES "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "calor: missing packages (Debian names):$missing - install their equivalents, then run this again" >&2
        exit 1
    fi
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$missing" >&2
    $sudo apt-get update -qq >&2
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >&2
}

# calor_build DIR [meson setup options…]: configures when there is no build yet or other options are asked for, builds, and
# prints the log only when something failed.
calor_build()
{
    local dir=$1 log again=""
    shift
    log=$(mktemp)
    [ -f "$dir/build.ninja" ] && again=--reconfigure
    if [ -z "$again" ] || { [ $# -gt 0 ] && [ "$*" != "$(cat "$dir/options" 2>/dev/null)" ]; }; then
        meson setup $again "$dir" "$@" >"$log" 2>&1 && echo "$*" >"$dir/options"
    fi
    if [ -f "$dir/build.ninja" ] && ninja -C "$dir" >"$log" 2>&1; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        echo "calor: the build failed (above)" >&2
        exit 1
    fi
}

# Makes .venv with the Python oracles of the tests (tests/requirements.txt) beside the system's PyTorch. Without a network the
# tests that need them skip, visibly.
calor_python()
{
    local stamp=.venv/.requirements
    export CALOR_PYTHON=$PWD/.venv/bin/python
    cmp -s tests/requirements.txt "$stamp" && return 0
    local python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    if "$python" -m venv --system-site-packages .venv >&2 && .venv/bin/pip install -q -r tests/requirements.txt >&2; then
        cp tests/requirements.txt "$stamp"
    else
        echo "calor: the Python oracles could not be installed; their tests will skip" >&2
    fi
}
