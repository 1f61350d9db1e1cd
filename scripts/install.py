"""Install the pinned dependencies and flashq itself into the virtual environment that runs this script.

Everything comes from constraints.txt, hash by hash: first uv, with pip; then the rest, with uv (ten times
as fast); then flashq, editable, built by the pinned hatchling. Only the standard library is used, since
nothing else is installed yet.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pip_index import index_environment

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"


def pinned_requirement(constraints: str, name: str) -> str:
    """The lines of `constraints` that pin `name`, with its hashes.

    Raises LookupError when it is not pinned there.
    """
    match = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*$", constraints, flags=re.MULTILINE)
    if match is None:
        raise LookupError(f"{name} is not pinned in {CONSTRAINTS.name}")
    return match.group()


def install_uv() -> None:
    """Install the pinned uv with pip, which knows where this machine gets its packages from."""
    requirement = pinned_requirement(CONSTRAINTS.read_text(encoding="utf-8"), "uv")
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "uv.txt")
        requirements.write_text(requirement + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", str(requirements)], check=True)


def main() -> None:
    """Install, or end with the exit code of the step that failed."""
    if sys.prefix == sys.base_prefix:
        sys.exit("install.py runs in a virtual environment: use `make setup`.")
    try:
        install_uv()
        environment = index_environment()
        uv_pip = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
        for arguments in (
            ["--require-hashes", "-r", str(CONSTRAINTS)],
            ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
        ):
            subprocess.run([*uv_pip, *arguments], env=environment, check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)


if __name__ == "__main__":
    main()
