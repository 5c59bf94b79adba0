"""Is the wheel whole? Compare it with the source, install it into an empty environment, and use it from elsewhere.

    python scripts/check_wheel.py build/wheel/stepcredit-0.1.0-py3-none-any.whl --constraint constraints.txt

`make wheel` builds it first. What only works in a checkout - a file that the build leaves out, a path relative to the
repository, a dependency of the tests that the package uses - fails here.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    ("--version",),
    ("methods",),
    ("train", "--dry-run"),
    ("train", "recipes/scenes_video/otca.yaml", "--dry-run"),
    ("doctor",),
)


def missing(wheel: Path, source: Path) -> list[str]:
    """Files below `source/stepcredit` that the wheel does not hold, e.g. `stepcredit/viewer/page.css`."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    files = [path for path in (source / "stepcredit").rglob("*") if path.is_file()]
    names = [path.relative_to(source).as_posix() for path in files if "__pycache__" not in path.parts]
    return sorted(set(names) - packed)


def use(wheel: Path, constraint: Path | None) -> None:
    """Install into a new environment and run the commands, in a folder that is not the repository."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "environment", with_pip=True)
        programs = Path(folder) / "environment" / ("Scripts" if sys.platform == "win32" else "bin")
        limits = ("--constraint", str(constraint.resolve())) if constraint else ()
        run(folder, programs / "python", "-m", "pip", "install", "--quiet", *limits, str(wheel.resolve()))
        for arguments in COMMANDS:
            run(folder, programs / "stepcredit", *arguments)


def run(folder: str, program: Path, *arguments: str) -> None:
    """One command; its output is shown only if it fails."""
    # A PYTHONPATH that names the checkout would hide everything that is looked for here.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program.name} {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"ok  {program.name} {' '.join(arguments)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--constraint", type=Path, help="versions to install with")
    arguments = parser.parse_args()
    absent = missing(arguments.wheel, ROOT / "src")
    if absent:
        sys.exit(f"{arguments.wheel.name} lacks {len(absent)} files of the package: {', '.join(absent)}")
    print(f"ok  {arguments.wheel.name} holds every file of the package")
    use(arguments.wheel, arguments.constraint)


if __name__ == "__main__":
    main()
