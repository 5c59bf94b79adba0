"""Shared by all tests: quiet libraries, the embedded generator loaded once, code of somebody else."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import diffusers.utils.logging
import pytest
import torch
import transformers.utils.logging
from hypothesis import settings

from stepcredit.build import open_generator
from stepcredit.policies.families.flux import Flux
from stepcredit.policies.generator import Generator
from stepcredit.settings.policies import Full, LoRA

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
settings.register_profile("stepcredit", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("stepcredit")


@pytest.fixture
def lora_policy() -> Generator:
    """The embedded generator with a LoRA whose effect is not zero."""
    policy = open_generator(Flux(resolution=32, max_tokens=12, surface=LoRA(rank=4)))
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return policy


@pytest.fixture
def full_policy() -> Generator:
    """The embedded generator, all transformer weights trainable."""
    return open_generator(Flux(resolution=32, max_tokens=12, surface=Full()))


@pytest.fixture
def their_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes a module into `their_lab`, a package of somebody else, and returns its dotted name.

    Python forgets the package after the test: the next one's `their_lab` lies in another folder.
    """
    folder = tmp_path / "code_of_theirs" / "their_lab"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)

    def write(name: str, code: str) -> str:
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
        importlib.invalidate_caches()
        return f"their_lab.{name}"

    yield write
    for module in list(sys.modules):
        if module.partition(".")[0] == "their_lab":
            del sys.modules[module]
