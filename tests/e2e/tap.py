"""Test Anything Protocol for the end-to-end scripts: checks, skips that show, and the few paths every script needs.

    import tap
    np = tap.need("numpy")                    # skips the whole script, visibly, where it is not installed
    out = tap.run("tokenize", model, "-p", "x")
    tap.check("ids come on one line", out.stdout.count("\n") == 1, out.stdout)
    tap.done()
"""
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALOR = os.environ.get("CALOR", str(ROOT / "build" / "calor"))
_count = 0
_failed = 0
_dir = None


def _other_python():
    """Goes on in the interpreter $CALOR_PYTHON, where there is one and this is not it."""
    other = os.environ.get("CALOR_PYTHON")
    if other and os.path.exists(other) and os.environ.get("CALOR_PYTHON_USED") != "1":
        os.environ["CALOR_PYTHON_USED"] = "1"
        os.execv(other, [other, *sys.argv])


def want(name):
    """A module that some of a script's tests need, or None: those have to skip. Call it before the first test."""
    try:
        return importlib.import_module(name)
    except Exception:
        _other_python()
        return None


def need(*modules):
    """Imports modules (returns one or a list). Where one is missing, goes on in the interpreter $CALOR_PYTHON, and where it is
    missing there too, skips the script with the reason."""
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except Exception as why:  # a broken installation counts as none
            _other_python()
            skip_all(f"Python module {name} is not installed ({why})")
    return found[0] if len(found) == 1 else found


def shared(*path):
    """A file of the shared data folder ($CALOR_SHARED or ../shared), or None."""
    base = pathlib.Path(os.environ.get("CALOR_SHARED") or ROOT.parent / "shared")
    file = base.joinpath("data", *path)
    return file if file.exists() else None


def temp():
    """A folder that goes away with the script."""
    global _dir
    _dir = _dir or tempfile.TemporaryDirectory(prefix="calor-test-")
    return pathlib.Path(_dir.name)


def run(*args, timeout=300, env=None, text=True, stdin=None):
    """Runs calor; the result has returncode, stdout, stderr."""
    return subprocess.run([CALOR, *map(str, args)], capture_output=True, text=text, timeout=timeout, input=stdin,
                          stdin=None if stdin is not None else subprocess.DEVNULL,
                          env={**os.environ, **(env or {})})


def check(name, good, found=""):
    """One test; `found` is shown when it fails."""
    global _count, _failed
    _count += 1
    print(f"{'ok' if good else 'not ok'} {_count} - {name}", flush=True)
    if not good:
        _failed += 1
        for line in str(found).splitlines()[:40]:
            print(f"# {line}", flush=True)
    return good


def skip(name, reason):
    global _count
    _count += 1
    print(f"ok {_count} - {name} # SKIP {reason}", flush=True)


def skip_all(reason):
    print(f"1..0 # SKIP {reason}", flush=True)
    sys.exit(0)


def done():
    print(f"1..{_count}", flush=True)
    sys.exit(1 if _failed or _count == 0 else 0)
