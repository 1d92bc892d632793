"""A local S3 server to try things on: ``make s3``. Ctrl-C stops it.

rclone serves a folder under .s3/ on the loopback address with real signatures.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ADDRESS = "127.0.0.1:9595"
KEY, SECRET = "gradattr", "gradattr-local"
BUCKET = "audits"


def main() -> int:
    rclone = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if rclone is None:
        print("rclone is not installed: make s3 installs it", file=sys.stderr)
        return 2
    folder = Path(".s3")
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    print(
        f"S3 at http://{ADDRESS}, bucket '{BUCKET}'. In another terminal:\n\n"
        f"  export AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={SECRET}\n"
        f"  export AWS_ENDPOINT_URL=http://{ADDRESS}\n"
        f"  .venv/bin/gradattr run manifests/digits_quickstart.yaml --set store=s3://{BUCKET}/try\n"
        f"  .venv/bin/gradattr ls --store s3://{BUCKET}/try\n"
    )
    command = [rclone, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", ADDRESS]
    try:
        return subprocess.call([*command, str(folder)])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
