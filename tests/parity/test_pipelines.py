"""Every adapter against the diffusers pipeline of its family, on miniatures with random weights: same noise, same
latents; trained parameters and no others get gradients; what is saved draws our samples in the plain pipeline."""

import warnings

import pytest
import torch
from diffusers import DDIMScheduler, UniPCMultistepScheduler

import miniatures
from stepcredit.build import open_generator
from stepcredit.flow import schedules
from stepcredit.flow.transitions import read_transitions
from stepcredit.policies.families import family_of
from stepcredit.policies.families.flux import Flux
from stepcredit.policies.families.qwen_image import QwenImage
from stepcredit.policies.families.sd import SD
from stepcredit.policies.families.sd3 import SD3
from stepcredit.policies.families.wan import Wan, WanFamily
from stepcredit.policies.family import scheduler_levels
from stepcredit.rollout.engine import sample_ode
from stepcredit.settings.policies import Full, LoRA

PROMPTS = ["a red circle", "two green triangles left of a blue square"]
STEPS = 4
CASES = {
    "flux": (miniatures.flux, Flux, {"resolution": 16, "max_tokens": 16}, {"max_sequence_length": 16}),
    "flux_wide": (miniatures.flux, Flux, {"resolution": (16, 24), "max_tokens": 16}, {"max_sequence_length": 16}),
    "sd3": (
        miniatures.sd3,
        SD3,
        {"resolution": 16, "max_tokens": 16, "guidance": 3.0},
        {"max_sequence_length": 16, "guidance_scale": 3.0},
    ),
    "sd3_unguided": (
        miniatures.sd3,
        SD3,
        {"resolution": (24, 16), "max_tokens": 16, "guidance": 1.0},
        {"max_sequence_length": 16, "guidance_scale": 1.0},
    ),
    "wan": (
        miniatures.wan,
        Wan,
        {"resolution": (16, 32), "frames": 5, "max_tokens": 16, "guidance": 3.0, "negative_prompt": "blurred"},
        {"num_frames": 5, "max_sequence_length": 16, "guidance_scale": 3.0, "negative_prompt": ["blurred"] * 2},
    ),
    "wan_two_experts": (
        lambda: miniatures.wan(experts=2),
        Wan,
        {"resolution": 16, "frames": 5, "max_tokens": 16, "guidance": 3.0, "guidance_2": 2.0},
        {"num_frames": 5, "max_sequence_length": 16, "guidance_scale": 3.0, "guidance_scale_2": 2.0},
    ),
    "qwen_image": (
        miniatures.qwen_image,
        QwenImage,
        {"resolution": 32, "max_tokens": 64, "guidance": 3.0},
        {"max_sequence_length": 64, "true_cfg_scale": 3.0, "negative_prompt": [" "] * 2},
    ),
    "sd": (miniatures.sd, SD, {"resolution": 16, "guidance": 3.0}, {"guidance_scale": 3.0}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each miniature saved once, by the function that makes it."""
    made = {}

    def folder(make):
        if make not in made:
            made[make] = tmp_path_factory.mktemp("miniature")
            make().save_pretrained(made[make])
        return made[make]

    return folder


def opened(name, folders, **more):
    make, settings, keys, call = CASES[name]
    folder = folders(make)
    policy = open_generator(settings(**{"weights": str(folder), "surface": LoRA(rank=4), **keys, **more}))
    height, width = policy.settings.size
    return policy, folder, {"height": height, "width": width, **call}


def plain(policy, folder):
    """The pipeline as diffusers loads it, with the sampler that ours is."""
    pipe = type(policy.pipe).from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if policy.prediction == "noise":
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    return pipe


def latents_of(pipe, noise, call):
    found = pipe(PROMPTS, num_inference_steps=STEPS, latents=noise.clone(), output_type="latent", **call)
    return found[0]


def noise_for(policy):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(PROMPTS), *policy.latent_shape(), generator=generator)


def ours(policy, noise):
    levels = policy.levels(STEPS, None)
    return sample_ode(policy, policy.encode(PROMPTS), levels, noise)


@pytest.mark.parametrize("name", CASES)
def test_our_sampler_draws_the_latents_of_the_plain_pipeline(name, folders):
    policy, folder, call = opened(name, folders)
    noise = noise_for(policy)
    theirs = latents_of(plain(policy, folder), noise, call)
    assert theirs.std() > 0.3
    assert (ours(policy, noise) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_decoded_pictures_are_the_plain_pipeline_s(name, folders):
    policy, folder, call = opened(name, folders)
    noise = noise_for(policy)
    pipe = plain(policy, folder)
    found = pipe(PROMPTS, num_inference_steps=STEPS, latents=noise.clone(), output_type="pt", **call)[0]
    media = policy.decode(ours(policy, noise))
    assert media.shape == found.shape
    assert (media - found.float()).abs().max() <= 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_saved_lora_draws_our_latents_in_the_plain_pipeline(name, folders, tmp_path):
    policy, folder, call = opened(name, folders)
    noise = noise_for(policy)
    base = ours(policy, noise)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    tuned = ours(policy, noise)
    policy.save(tmp_path)
    pipe = plain(policy, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.load_lora_weights(tmp_path)
        if (tmp_path / "transformer_2").is_dir():
            pipe.load_lora_weights(tmp_path / "transformer_2", load_into_transformer_2=True)
    theirs = latents_of(pipe, noise, call)
    assert (tuned - base).abs().max() > 1e-3, "the LoRA of this test must change the latents"
    assert (tuned - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("surface", [LoRA(rank=4, targets="attention"), LoRA(rank=4), Full(), Full(modules=["attn"])])
def test_gradients_reach_what_is_trained_and_nothing_else(name, surface, folders):
    policy, _, _ = opened(name, folders, surface=surface)
    noise, condition = noise_for(policy), policy.encode(PROMPTS)
    for level in policy.levels(STEPS, None)[[0, STEPS - 1]]:
        policy.velocity(noise, level.float().expand(len(noise)), condition).square().mean().backward()
    mine = {id(parameter) for parameter in policy.parameters()}
    reached = {
        id(parameter)
        for part in policy.pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
        if parameter.grad is not None
    }
    assert reached <= mine
    networks = policy.surface.networks.values()
    dead = [at for n in networks for at, p in n.named_parameters() if p.requires_grad and p.grad is None]
    if name == "qwen_image":  # the text stream of its last block leads nowhere
        last = [at for at in dead if at.startswith("transformer_blocks.1.") and ("txt" in at or "add" in at)]
        dead = [at for at in dead if at not in last]
    assert not dead
    moved = [p.grad is not None and p.grad.abs().max() > 0 for p in policy.parameters()]
    assert sum(moved) > (0.4 if isinstance(surface, LoRA) else 0.8) * len(moved)  # a fresh LoRA's A has none


@pytest.mark.parametrize("name", CASES)
def test_gradient_checkpointing_changes_no_gradient(name, folders):
    gradients = []
    for checkpointing in (False, True):
        policy, _, _ = opened(name, folders, gradient_checkpointing=checkpointing)
        level = policy.levels(STEPS, None)[1].float().expand(len(PROMPTS))
        policy.velocity(noise_for(policy), level, policy.encode(PROMPTS)).square().mean().backward()
        gradients.append([parameter.grad for parameter in policy.parameters() if parameter.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_the_policy_before_training(name, folders):
    policy, _, _ = opened(name, folders)
    noise, condition = noise_for(policy), policy.encode(PROMPTS)
    level = policy.levels(STEPS, None)[1].float().expand(len(noise))
    with torch.no_grad():
        before = policy.velocity(noise, level, condition)
        for parameter in policy.parameters():
            parameter.add_(0.05)
        assert not torch.allclose(policy.velocity(noise, level, condition), before)
        with policy.reference():
            assert torch.equal(policy.velocity(noise, level, condition), before)


def test_every_family_has_an_adapter_of_its_own():
    kinds = [settings for _, settings, _, _ in CASES.values()]
    assert len({family_of(kind(weights="x")) for kind in kinds}) == 5


def times_told(network, draw):
    """The timesteps that a network hears while something is drawn, one a forward."""
    heard = []
    handle = network.register_forward_pre_hook(
        lambda module, given, named: heard.append(named["timestep"][0].float().item()), with_kwargs=True
    )
    draw()
    handle.remove()
    return heard


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "qwen_image"])
def test_in_half_precision_the_network_hears_the_times_of_the_plain_pipeline(name, folders):
    policy, folder, call = opened(name, folders, dtype="bfloat16")
    pipe = type(policy.pipe).from_pretrained(folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    levels, steps = policy.levels(24, None), 24
    condition, noise = policy.encode(PROMPTS), noise_for(policy)
    theirs = times_told(
        pipe.transformer,
        lambda: pipe(
            PROMPTS, num_inference_steps=steps, latents=noise.to(torch.bfloat16), output_type="latent", **call
        ),
    )
    mine = times_told(policy.pipe.transformer, lambda: sample_ode(policy, condition, levels, noise))
    branches = len(theirs) // steps  # some pipelines run the two branches of guidance one after the other
    assert mine == theirs[::branches]


@pytest.mark.parametrize("experts", ["both", "high_noise", "low_noise"])
@pytest.mark.parametrize("steps", [10, 20, 30, 40, 50])  # shift 3 has the level .875, the boundary, but for rounding
def test_everybody_agrees_which_expert_decides(experts, steps, folders):
    policy, *_ = opened("wan_two_experts", folders, experts=experts)
    levels = policy.levels(steps, 3.0)
    condition, noise = policy.encode(PROMPTS), noise_for(policy)
    heard = []
    for name in ("transformer", "transformer_2"):
        getattr(policy.pipe, name).register_forward_pre_hook(lambda module, given, name=name: heard.append(name))
    for level in levels[:-1].float():
        with torch.no_grad():
            policy.velocity(noise, level.expand(len(noise)), condition)
    decided = policy.family.deciding(levels)
    assert heard == decided
    mine = {"both": decided, "high_noise": ["transformer"] * steps, "low_noise": ["transformer_2"] * steps}[experts]
    assert policy.trainable(levels).tolist() == [a == b for a, b in zip(decided, mine, strict=True)]


def test_a_folder_that_names_a_multistep_solver_gets_the_even_schedule():
    config = WanFamily.published["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"].parts["scheduler"]
    levels = scheduler_levels(UniPCMultistepScheduler.from_config(config), 16, tokens=None, even=False)
    assert torch.allclose(levels, schedules.shifted(16, shift=config["flow_shift"]))
    assert read_transitions("flow_sde", levels, noise_level=0.7).std.max() < 10


def test_masks_of_one_length_are_left_out_and_others_are_not(folders):
    policy, *_ = opened("qwen_image", folders, guidance=1.0)
    assert "encoder_hidden_states_mask" not in policy.encode(PROMPTS[:1] * 2).tensors
    assert policy.encode(PROMPTS).tensors["encoder_hidden_states_mask"].sum(1).unique().numel() == 2
    guided, *_ = opened("qwen_image", folders)
    assert "negative_encoder_hidden_states_mask" in guided.encode(PROMPTS[:1]).tensors


def test_a_picture_whose_side_the_unet_halves_unevenly_is_drawn_as_by_the_plain_pipeline(folders):
    policy, folder, call = opened("sd", folders, resolution=(24, 40))
    noise = noise_for(policy)
    theirs = latents_of(plain(policy, folder), noise, {**call, "height": 24, "width": 40})
    assert (ours(policy, noise) - theirs).abs().max() <= 1e-5
