"""What is trained and what is not, and folders that cannot be used."""

import json

import pytest
import torch
from safetensors import safe_open

from stepcredit.build import open_generator
from stepcredit.errors import RecipeError, WeightsError
from stepcredit.policies.families.flux import Flux
from stepcredit.settings.policies import LoRA


def one_velocity(policy):
    x = torch.ones(1, *policy.latent_shape())
    return policy.velocity(x, torch.tensor([0.5]), policy.encode(["a red circle"]))


def test_lora_gradients_reach_the_adapters_and_nothing_else(lora_policy):
    one_velocity(lora_policy).square().mean().backward()
    trained = [p for name, p in lora_policy.pipe.transformer.named_parameters() if "lora_" in name]
    others = [p for name, p in lora_policy.pipe.transformer.named_parameters() if "lora_" not in name]
    assert len(trained) == len(lora_policy.parameters()) > 0
    assert all(p.grad is not None for p in trained)
    assert sum(p.grad.abs().max() > 0 for p in trained) > 0.9 * len(trained)
    assert all(p.grad is None for p in others)


def test_full_gradients_reach_the_whole_transformer(full_policy):
    one_velocity(full_policy).square().mean().backward()
    assert all(p.grad is not None for p in full_policy.pipe.transformer.parameters())
    assert all(p.grad is None for p in full_policy.pipe.vae.parameters())


def test_a_fresh_lora_changes_nothing_and_the_reference_switches_it_off(lora_policy):
    fresh = open_generator(Flux(resolution=32, max_tokens=12, surface=LoRA(rank=4)))
    with torch.no_grad():
        tuned = one_velocity(lora_policy)
        with lora_policy.reference():
            base = one_velocity(lora_policy)
        assert torch.allclose(base, one_velocity(fresh), atol=1e-6)
        assert torch.equal(tuned, one_velocity(lora_policy))
        assert (tuned - base).abs().max() > 1e-3


def test_full_reference_stays_while_weights_move(full_policy):
    full_policy.surface.keep_reference()
    with torch.no_grad():
        before = one_velocity(full_policy)
        full_policy.parameters()[0].add_(0.1)
        with full_policy.reference():
            assert torch.equal(one_velocity(full_policy), before)
        assert not torch.equal(one_velocity(full_policy), before)


def test_lora_initialisation_follows_the_seed_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    settings = Flux(resolution=32, max_tokens=12, surface=LoRA(rank=4))
    first, again, other = (open_generator(settings, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_resolution_must_fit_the_autoencoder():
    with pytest.raises(RecipeError, match=r"multiple of 8.*32 and 40"):
        open_generator(Flux(resolution=36, max_tokens=12))


def test_missing_partial_and_foreign_folders_say_what_is_wrong(tmp_path, full_policy):
    with pytest.raises(WeightsError, match="there is no folder"):
        open_generator(Flux(weights=str(tmp_path / "nowhere")))
    with pytest.raises(WeightsError, match=r"no model_index\.json"):
        open_generator(Flux(weights=str(tmp_path)))
    full_policy.pipe.save_pretrained(tmp_path / "partial")
    for file in (tmp_path / "partial" / "vae").iterdir():
        file.unlink()
    (tmp_path / "partial" / "vae").rmdir()
    with pytest.raises(WeightsError, match="lacks vae"):
        open_generator(Flux(weights=str(tmp_path / "partial")))


def test_pickled_weights_are_refused(tmp_path, full_policy):
    full_policy.pipe.save_pretrained(tmp_path)
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(WeightsError, match="is a pickle"):
        open_generator(Flux(weights=str(tmp_path)))


def test_a_saved_adapter_notes_its_modules_in_a_fixed_order(lora_policy, tmp_path):
    lora_policy.save(tmp_path)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", framework="np") as file:
        notes = json.loads(file.metadata()["lora_adapter_metadata"])
    modules = notes["transformer.target_modules"]
    assert modules == sorted(modules), "two processes write the same file"
    assert len(modules) > 10
