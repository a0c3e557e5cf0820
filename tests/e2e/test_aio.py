#!/usr/bin/env python3
"""Asynchronous reads while system calls fail: strace makes them. The same bytes must arrive, whatever is refused."""
import os
import random
import shutil
import subprocess
import sys

import tap

AIO_READ = sys.argv[1]
if not shutil.which("strace"):
    tap.skip_all("strace is not installed")
data = tap.temp() / "data"
data.write_bytes(random.Random(3).randbytes(200 * 16384))
# A sanitizer's leak check cannot run under a tracer.
ENV = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}


def read(depth, ring=0, inject=(), only=None, **env):
    trace = ["strace", "-f", "-qq", "-o", "/dev/null"] if inject else []
    for what in inject:
        trace += ["-e", "inject=" + what]
    if only:
        trace += ["-P", str(only)]
    return subprocess.run([*trace, AIO_READ, str(data), str(depth), str(ring)], capture_output=True, text=True, timeout=120, env={**ENV, **env})


probe = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True)
if probe.returncode:
    tap.skip_all(f"strace may not trace here: {probe.stderr.strip()[:200]}")

pool = read(8, CALOR_AIO="threads")
tap.check("the pool reads", pool.returncode == 0 and pool.stdout.startswith("threads"), pool)
WANT = pool.stdout.split()[-1:]
plain = read(64)
uring = plain.stdout.startswith("io_uring")
tap.check("without faults: the same bytes, no warning", plain.stdout.split()[-1:] == WANT and not (uring and plain.stderr), plain)

for error in ("EPERM", "ENOSYS", "ENOMEM"):
    out = read(16, inject=[f"io_uring_setup:error={error}"])
    tap.check(f"io_uring_setup says {error}: the pool, one warning, the same bytes",
              out.stdout.startswith("threads") and out.stdout.split()[-1:] == WANT and out.stderr.count("warning") == 1
              and ("io_uring" in out.stderr), out)

if uring:
    for error, when in [("EAGAIN", "1+3"), ("EINTR", "2+2"), ("EBUSY", "1+2"), ("ENOMEM", "3+4"), ("EAGAIN", "1..20")]:
        for depth, ring in [(64, 2), (32, 0)]:
            out = read(depth, ring, inject=[f"io_uring_enter:error={error}:when={when}"])
            tap.check(f"io_uring_enter says {error} ({when}), depth {depth}, ring {ring or depth}: nothing is lost",
                      out.stdout.startswith("io_uring") and out.stdout.split()[-1:] == WANT, out)
    out = read(16, inject=["io_uring_register:error=ENOMEM"])
    tap.check("nothing can be registered: plain reads, the same bytes",
              out.stdout.startswith("io_uring") and " plain " in out.stdout and out.stdout.split()[-1:] == WANT, out)
    out = read(4, inject=["io_uring_enter:error=EBADF:when=2+1"])
    tap.check("a ring that fails for good ends with an error, not with a hang", out.returncode == 1 and str(data) in out.stderr, out)
else:
    tap.skip("io_uring_enter fails now and then", "io_uring is refused here: " + plain.stderr.strip())

if " direct " in plain.stdout:
    out = read(16, inject=["openat:error=EINVAL:when=2"], only=data)
    tap.check("O_DIRECT is refused: through the page cache, the same bytes", " cached " in out.stdout and out.stdout.split()[-1:] == WANT, out)
    out = read(1, inject=["pread64:error=EINVAL:when=1"], only=data, CALOR_AIO="threads")
    tap.check("a direct read is refused: through the page cache from then on",
              " cached " in out.stdout and out.stdout.split()[-1:] == WANT, out)
else:
    tap.skip("O_DIRECT is refused", "it is refused here anyway")
out = read(1, inject=["pread64:error=EIO:when=3+5"], only=data, CALOR_AIO="threads")
tap.check("every fifth read fails: tried again, the same bytes", out.stdout.split()[-1:] == WANT, out)
out = read(16, inject=["pread64:error=EIO"], only=data, CALOR_AIO="threads")
tap.check("all reads fail: an error with file, offset and tries",
          out.returncode == 1 and str(data) in out.stderr and "offset" in out.stderr and "4 times" in out.stderr, out)
tap.done()
