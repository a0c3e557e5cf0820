#!/usr/bin/env python3
"""Adds up meson runs by their logs: every TAP line counts as a test, a program without TAP as one. Prints
'N passed, N failed, N skipped' last; exit 1 if anything failed or nothing ran."""
import json
import re
import sys

passed = failed = skipped = 0
for line in (line for path in sys.argv[1:] for line in open(path)):
    test = json.loads(line)
    tap = re.findall(r"^(not ok|ok)\b(.*)$", test.get("stdout") or "", re.M)
    bad = test["result"] in ("FAIL", "ERROR", "TIMEOUT", "INTERRUPT", "UNEXPECTEDPASS")
    if tap:
        good = sum(1 for verdict, rest in tap if verdict == "ok" and "# SKIP" not in rest.upper())
        skip = sum(1 for verdict, rest in tap if verdict == "ok" and "# SKIP" in rest.upper())
        not_ok = sum(1 for verdict, _ in tap if verdict == "not ok")
        passed, skipped = passed + good, skipped + skip
        failed += max(not_ok, 1) if bad else not_ok
    elif bad:
        failed += 1
    elif test["result"] == "SKIP":
        skipped += 1
    else:
        passed += 1
    for name in re.findall(r"^ok\b.*# SKIP.*$", test.get("stdout") or "", re.M | re.I):
        print(f"skipped: {test['name']}: {name}")
    if test["result"] == "SKIP":
        print(f"skipped: {test['name']}")
    if bad:
        print(f"failed: {test['name']}")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or passed == 0 else 0)
