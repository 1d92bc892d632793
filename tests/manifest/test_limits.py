"""Hostile manifests: refused at once and within 200 MB, with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BOMBS = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 8)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "brackets": "a: " + "[" * 90_000,
    "braces": "{a: " * 20_000,
    "hyphens": "- " * 45_000,
    "question_marks": "? " * 45_000,
    "hundred_thousand_brackets": "a: " + "[[[\n " * 40_000,
    "indents": "".join(" " * n + "a:\n" for n in range(1000)),
    "ten_megabytes": "a: " + "x" * 10_000_000,
    "python_object": "a: !!python/object/apply:os.system ['echo pwned > PWNED']",
    "many_keys": "".join(f"k{n}: 1\n" for n in range(40_000)),
    "same_key": "a: 1\n" * 30_000,
    "one_line": "seed: " + "9" * 1_000_000,
    "one_number": "seed: " + "9" * 49_000,
    "one_folded_text": "seed: x\n" + ("  " + "9" * 90_000 + "\n") * 10,
    "urls": "seed: " + "a://" * 20_000,
    "web_tokens": "seed: " + "-eyJ" * 20_000,
    "one_exponent": "seed: 1e" + "9" * 1_000_000,
    "merge_keys": "<<: {a: 1}\n" * 5000,
    "many_faults": "kind: attribute\n" + "".join(f"k{n}: 1\n" for n in range(3000)),
    "long_secret": "kind: attribute\npassword: " + "s" * 1_000_000,
}

_PROGRAM = """
import json, sys, time
from gradattr.errors import ManifestError
from gradattr.manifest.loading import load_manifest
start = time.process_time()
try:
    load_manifest(sys.argv[1])
    outcome = "accepted"
except ManifestError as error:
    outcome = str(error)
spent = time.process_time() - start
# Not ru_maxrss, which a child inherits from the process that started it.
with open("/proc/self/status") as status:
    (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"outcome": outcome, "seconds": spent, "megabytes": peak / 1024}))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_refused_fast_and_small(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    found = json.loads(done.stdout)
    assert found["outcome"].startswith(str(path))
    assert len(found["outcome"]) < 10_000
    # Under a second on a quiet machine; a bomb that goes off takes minutes.
    assert found["seconds"] < 5.0
    assert found["megabytes"] < 200
    assert [entry.name for entry in tmp_path.iterdir()] == ["bomb.yaml"]
