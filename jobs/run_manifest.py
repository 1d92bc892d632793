"""Carry out a manifest: what a cluster calls. ``python -m jobs.run_manifest URL [--set k=v ...]``

The same as ``gradattr run``, in the module form, because on a cluster the script on the PATH may
be another Python's.
"""

from __future__ import annotations

import sys

from gradattr.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["run"]
    main()
