"""Print a key for the environment that pyproject.toml asks for.

The key changes with the Python version and with the dependencies that `make env` installs, not with
anything else in pyproject.toml, so that an environment is built again only when it would differ.
"""

import hashlib
import json
import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  (this runs before any environment exists)
    sys.exit(
        f"fxplastic needs Python 3.11 or newer, this is {sys.version.split()[0]}: "
        "point PYTHON at another interpreter (make PYTHON=python3.12 ...)"
    )

import tomllib

INSTALLED = ("test", "dev", "demo", "docs")  # the extras that `make env` installs


def env_key(pyproject: Path) -> str:
    """First 16 digits of a SHA-256 over the Python version and the dependency lists."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = {name: project["optional-dependencies"][name] for name in INSTALLED}
    wanted = [project["dependencies"], extras, sys.version]
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    print(env_key(Path(__file__).resolve().parent.parent / "pyproject.toml"))
