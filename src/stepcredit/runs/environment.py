"""What a run stood on: versions, commit, device."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("stepcredit", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy")
COMPUTING = ("stepcredit", "torch", "diffusers", "transformers", "peft")
"""Those of them that decide what a run computes: with another version it would not go on bit for bit."""


def describe() -> dict[str, Any]:
    """Versions, commit and device, as stored in environment.json and printed by `stepcredit doctor`."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "device": _device(),
    }


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"cpu, {torch.get_num_threads()} threads"  # how sums are split, and so their last digits, hangs on it


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this checkout; "unknown" for an installed package."""
    try:
        # of the package's own folder: the working directory may be a checkout of something else
        here = Path(__file__).resolve().parent
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"
