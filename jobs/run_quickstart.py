"""``make quickstart``: train on the embedded digits, attribute all of them, verify, query, draw.

Every step is a command that is printed first, so that what you see is what you can type.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from gradattr.cli.main import main as command

FOLDER = Path("quickstart")
MANIFEST = Path("manifests/digits_quickstart.yaml")
SHEET = FOLDER / "maps.png"

QUESTION = """
SELECT a.method, avg(a.abs_total) FILTER (p.correct) AS strength_when_right, \
avg(a.abs_total) FILTER (NOT p.correct) AS strength_when_wrong \
FROM attributions a JOIN predictions p USING (row) GROUP BY a.method ORDER BY a.method
""".strip()


def gradattr(*arguments: str) -> None:
    shown = " ".join(shlex.quote(argument) for argument in arguments)
    print(f"\n$ gradattr {shown}", flush=True)
    sys.argv = ["gradattr", *arguments]
    try:
        command()
    except SystemExit as end:
        if end.code:
            raise


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    store = str(FOLDER / "results")
    gradattr("run", str(MANIFEST), "--set", f"store={store}")
    run = sorted((Path(store) / "runs").iterdir(), key=lambda path: path.stat().st_mtime)[-1].name
    gradattr("verify", run, "--store", store)
    gradattr("show", run, "--store", store, "--png", str(SHEET))
    gradattr("query", run, QUESTION, "--store", store)
    print(f"\nLook at {SHEET}. Next: edit {MANIFEST}, and run it again.")


if __name__ == "__main__":
    main()
