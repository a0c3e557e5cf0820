"""libcalor as other programs see it: what it exports, the example against the shared and the static library, and through
pkg-config against this build.
usage: test_library.py LIBCALOR_SO EXAMPLE EXAMPLE_STATIC PKG_CONFIG_DIR"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

import tap

library, example, example_static, pc_dir = sys.argv[1:5]
root = tap.ROOT
header = (root / "engine/calor.h").read_text()
declared = set(re.findall(r"CALOR_API[^;]*?\b(calor_\w+)\(", header))
model = tap.shared("models", "stories260K.gguf")
env = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}

if shutil.which("nm"):
    out = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1] for line in out.splitlines() if line.split()[-2] in "TDBRVW"}
    sanitizer = {s for s in exported if re.match(r"_*(asan|ubsan|tsan|sancov|sanitizer|odr_asan|start___sancov|stop___sancov)", s)}
    tap.check("the shared library exports what calor.h declares and nothing else", exported - sanitizer == declared,
              f"only exported: {sorted(exported - sanitizer - declared)}\nonly declared: {sorted(declared - exported)}")
else:
    tap.skip("exported symbols", "nm is not installed")

for lang, std in (("c", "-std=c99"), ("c", "-std=c17"), ("c++", "-std=c++11")):
    cc = shutil.which("cc" if lang == "c" else "c++")
    name = f"calor.h compiles alone with {std}"
    if not cc:
        tap.skip(name, f"no {lang} compiler")
        continue
    r = subprocess.run([cc, "-x", lang, std, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", root / "engine/calor.h"],
                       capture_output=True, text=True)
    # "#pragma once in main file"-like notes do not occur: the header has guards.
    tap.check(name, r.returncode == 0, r.stderr)

want = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw\n"
for name, program in (("shared", example), ("static", example_static)):
    if not model:
        tap.skip(f"the example with the {name} library", "no shared models")
        continue
    r = subprocess.run([program, model], capture_output=True, text=True, env=env)
    tap.check(f"the example with the {name} library", r.returncode == 0 and r.stdout == want, r.stdout + r.stderr)
r = subprocess.run([example, "/nonexistent.gguf"], capture_output=True, text=True, env=env)
tap.check("the example reports a model that is not there", r.returncode == 1 and "/nonexistent.gguf" in r.stderr, r.stderr)

if not (shutil.which("pkg-config") and shutil.which("cc")):
    tap.skip("building with pkg-config", "pkg-config or cc is not installed")
elif re.search(rb"__(asan|tsan)_init", pathlib.Path(library).read_bytes()):
    tap.skip("building with pkg-config", "this is a sanitizer build")
else:
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "calor"], capture_output=True, text=True,
                           env={**os.environ, "PKG_CONFIG_PATH": pc_dir})
    tap.check("pkg-config knows calor", flags.returncode == 0, flags.stderr)
    out = tap.temp() / "complete"
    r = subprocess.run(["cc", root / "docs/examples/complete.c", "-o", out, *flags.stdout.split(),
                        f"-Wl,-rpath,{os.path.dirname(library)}"], capture_output=True, text=True)
    tap.check("the example builds with its flags", r.returncode == 0, r.stderr)
    if model:
        r = subprocess.run([out, model], capture_output=True, text=True)
        tap.check("and runs", r.stdout == want, r.stdout + r.stderr)
tap.done()
