"""``make bench``: every benchmark, one after the other, into RESULTS.md beside this file.

Each is a process of its own; what it prints is what the file holds. Nothing else should run on
the machine, but since process CPU time is measured, ratios stand even if something does.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent

#: Title, what it compares, program and arguments.
BENCHES = [
    (
        "Methods",
        "Against Captum's best batching and the bare torch loop with as many evaluations.",
        ["bench_methods.py"],
    ),
    (
        "UNI",
        "Against a per-image implementation with model copies, and 27 bare evaluations.",
        ["bench_uni.py"],
    ),
    (
        "Rules of back-propagation",
        "DeepLIFT and guided backprop against Captum, which gets the model rebuilt for it.",
        ["bench_rules.py"],
    ),
    (
        "Perturbation methods",
        "Occlusion against Captum's best batching, RISE against loops over masks.",
        ["bench_perturbation.py"],
    ),
    (
        "Metrics of maps",
        "Deletion, insertion and MuFidelity against loops, bare forward passes and Quantus.",
        ["bench_metrics.py"],
    ),
    (
        "Judged runs",
        "`gradattr run` of an evaluation against the same mathematics called directly.",
        ["bench_evaluate.py"],
    ),
    (
        "Whole runs",
        "`gradattr run` against the bare loop; memory; planning.",
        ["bench_run.py"],
    ),
    (
        "Retraining",
        "Whole-tensor batches, masked in memory, against Dataset and DataLoader.",
        ["bench_retraining.py"],
    ),
    (
        "Training data",
        "grad-cos against loops, vmap, Captum and plain training passes; sketches; memory.",
        ["bench_influence.py"],
    ),
    ("TFA maps", "Against double backward passes, pair by pair.", ["bench_tfa_maps.py"]),
    ("Packs", "What a worker group of Ray Train costs, once and per trial.", ["bench_packs.py"]),
    ("Commit", "10 000 shards.", ["bench_commit.py"]),
]


def main() -> int:
    lines = [
        "# Results of `make bench`",
        "",
        f"Written on {datetime.now(UTC):%Y-%m-%d}. Times are process CPU seconds at one thread, "
        "ratios are medians of interleaved runs.",
    ]
    failed = 0
    for title, what, (program, *arguments) in BENCHES:
        print(f"{title} ...", flush=True)
        done = subprocess.run(
            [sys.executable, str(HERE / program), *arguments], stdout=subprocess.PIPE, text=True
        )
        print(done.stdout)
        failed += done.returncode != 0
        shown = done.stdout.strip()
        if "|---" not in shown:  # plain text, not a table
            shown = f"```\n{shown}\n```"
        lines += ["", f"## {title}", "", what, "", shown]
        (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
