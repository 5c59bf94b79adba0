"""The run folder.

run.yaml               the resolved recipe
environment.json       versions, commit, device, reward fingerprints
metrics.jsonl          one line per iteration
problems.jsonl         what could not be scored, and why
credit/000007.safetensors
samples/000010/*.png   pictures from fixed noise and captions, captions.txt beside them
checkpoints/000100/    see training/checkpoint.py
result.json            base against tuned on held-out captions
before_after.png
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from stepcredit.errors import RunError
from stepcredit.records import Credit, RewardTable, StepReport


class RunFolder:
    """Writes a run. Create a new one with `create`; it never writes into a folder that holds another run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"{path} exists already and is not empty; nothing was changed. Choose another with "
                "--output.folder FOLDER, or remove it"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"{path} cannot be written ({error.strerror}); choose another with --output.folder"
            ) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        if not (path / "run.yaml").is_file():
            raise RunError(f"{path} is not a run: it has no run.yaml. Give the folder that `stepcredit train` printed")
        return cls(path)

    def write_text(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    # Tracker
    def log(self, report: StepReport) -> None:
        values = {name: value if math.isfinite(value) else None for name, value in report.metrics.items()}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": report.iteration, **values}) + "\n")

    def problems(self, iteration: int, reasons: Sequence[str]) -> None:
        with (self.path / "problems.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"iteration": iteration, "reason": reason}) + "\n" for reason in reasons)

    def pictures(self, iteration: int, name: str, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
        folder = self.path / name / f"{iteration:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{index:02d}.png")
        (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")

    def close(self) -> None:
        pass

    def credit(self, iteration: int, credit: Credit, rewards: RewardTable, prompts: Sequence[str]) -> None:
        """Credit tensors in float32, with raw scores, names and prompts."""
        folder = self.path / "credit"
        folder.mkdir(exist_ok=True)
        tensors = {name: tensor.float().contiguous() for name, tensor in credit.tensors().items()}
        notes = {"objectives": json.dumps(rewards.names), "prompts": json.dumps(list(prompts), ensure_ascii=False)}
        path = folder / f"{iteration:06d}.safetensors"
        save_file({**tensors, "rewards": rewards.scores.contiguous()}, f"{path}.writing", metadata=notes)
        os.replace(f"{path}.writing", path)

    def metrics(self) -> list[Mapping[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a killed run may leave half a line
        return [json.loads(line) for line in whole.splitlines() if line]
