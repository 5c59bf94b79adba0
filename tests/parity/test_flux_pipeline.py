"""Our sampler loop against diffusers' own FluxPipeline: same noise, same schedule, same pictures."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from stepcredit.evaluation.held_out import draw, shown
from stepcredit.flow.schedules import shifted
from stepcredit.records import NoiseStream
from stepcredit.rollout.decoding import decode
from stepcredit.rollout.engine import sample_ode

PROMPTS = ["a red circle", "three green squares", "a white triangle left of a blue square"]


def plain_pictures(pipe, noise, steps, **extra) -> Any:
    pipe.set_progress_bar_config(disable=True)
    settings = {"height": 32, "width": 32, "max_sequence_length": 12, "output_type": "pt"}
    return pipe(PROMPTS, num_inference_steps=steps, latents=noise.clone(), **settings, **extra).images


@pytest.fixture
def noise(full_policy):
    return torch.stack([NoiseStream(7, row).draw(full_policy.latent_shape()) for row in range(len(PROMPTS))])


@pytest.mark.parametrize("steps", [4, 10])
def test_ode_rollout_equals_the_plain_pipeline(full_policy, noise, steps):
    condition, levels = full_policy.encode(PROMPTS), full_policy.levels(steps, None)
    ours = full_policy.decode(sample_ode(full_policy, condition, levels, noise))
    theirs = plain_pictures(full_policy.pipe, noise, steps)
    assert (ours - theirs).abs().max() <= 1e-4
    assert theirs.std() > 0.05


def test_a_shift_of_the_recipe_equals_the_pipeline_with_those_sigmas(full_policy, noise):
    levels = full_policy.levels(6, 3.0)
    assert torch.equal(levels, shifted(6, shift=3.0))
    ours = full_policy.decode(sample_ode(full_policy, full_policy.encode(PROMPTS), levels, noise))
    scheduler = full_policy.pipe.scheduler
    full_policy.pipe.scheduler = type(scheduler).from_config(scheduler.config, use_dynamic_shifting=False, shift=1.0)
    theirs = plain_pictures(full_policy.pipe, noise, 6, sigmas=levels[:-1].numpy())
    assert (ours - theirs).abs().max() <= 1e-4


def test_exported_lora_in_a_plain_pipeline_draws_our_pictures(lora_policy, noise, tmp_path):
    condition, levels = lora_policy.encode(PROMPTS), lora_policy.levels(6, None)
    with torch.no_grad():
        ours = lora_policy.decode(sample_ode(lora_policy, condition, levels, noise))
        with lora_policy.reference():
            base = lora_policy.decode(sample_ode(lora_policy, condition, levels, noise))
    lora_policy.save(tmp_path)

    plain = FluxPipeline.from_pretrained(lora_policy.pipe.config._name_or_path, dtype=torch.float32)
    without = plain_pictures(plain, noise, 6)
    plain.load_lora_weights(tmp_path)
    tuned = plain_pictures(plain, noise, 6)
    assert (base - without).abs().max() <= 1e-4
    assert (ours - tuned).abs().max() <= 1e-4
    assert (tuned - without).abs().max() > 0.02, "the LoRA of this test must change the pictures"


def test_exported_full_weights_draw_our_pictures(full_policy, noise, tmp_path):
    with torch.no_grad():
        full_policy.parameters()[0].mul_(1.05)
    condition, levels = full_policy.encode(PROMPTS), full_policy.levels(4, None)
    ours = full_policy.decode(sample_ode(full_policy, condition, levels, noise))
    full_policy.save(tmp_path)
    network = type(full_policy.pipe.transformer).from_pretrained(tmp_path / "transformer")
    folder = full_policy.pipe.config._name_or_path
    plain = FluxPipeline.from_pretrained(folder, transformer=network, dtype=torch.float32)
    assert (ours - plain_pictures(plain, noise, 4)).abs().max() <= 1e-4


def test_rows_of_an_evaluation_are_those_of_the_whole(full_policy):
    whole = shown(draw(full_policy, PROMPTS, members=2, steps=4, shift=None, seed=3, micro_batch=6))
    some = shown(draw(full_policy, PROMPTS, members=2, steps=4, shift=None, seed=3, micro_batch=1, rows=[1, 4]))
    assert np.abs(whole[[1, 4]].astype(int) - some).max() <= 1  # grey levels; rounding of a different batch size


def test_decode_turns_broken_latents_black(full_policy):
    latents = torch.full((1, *full_policy.latent_shape()), torch.nan)
    assert decode(full_policy, latents, 1).media.max() == 0
