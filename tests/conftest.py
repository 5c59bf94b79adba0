"""Shared by all tests: quiet libraries, the embedded generator loaded once."""

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
