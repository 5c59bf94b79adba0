"""One whole OTCA iteration of every family, on miniatures with random weights: LoRA and full weights."""

import numpy as np
import pytest
import torch

import miniatures
from stepcredit.build import build_parts
from stepcredit.recipe.load import validate
from stepcredit.training.step import step

FAMILIES = {
    "flux": (miniatures.flux, {"type": "flux", "resolution": 16, "max_tokens": 16}),
    "sd3": (miniatures.sd3, {"type": "sd3", "resolution": 16, "max_tokens": 16, "guidance": 2.0}),
    "wan": (miniatures.wan, {"type": "wan", "resolution": 16, "frames": 5, "max_tokens": 16, "guidance": 2.0}),
    "wan_high_noise": (
        lambda: miniatures.wan(experts=2),
        {"type": "wan", "resolution": 16, "frames": 5, "max_tokens": 16, "experts": "high_noise", "guidance_2": 2.0},
    ),
    "wan_low_noise": (
        lambda: miniatures.wan(experts=2),
        {"type": "wan", "resolution": 16, "frames": 5, "max_tokens": 16, "experts": "low_noise", "guidance": 1.0},
    ),
    "wan_both": (
        lambda: miniatures.wan(experts=2),
        {"type": "wan", "resolution": 16, "frames": 5, "max_tokens": 16, "experts": "both"},
    ),
    "qwen_image": (miniatures.qwen_image, {"type": "qwen_image", "resolution": 16, "max_tokens": 64}),
    "sd": (miniatures.sd, {"type": "sd", "resolution": 16, "guidance": 2.0}),
}


def redness(media: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Pictures or videos."""
    return media[..., 0].reshape(len(media), -1).mean(1) / 255


def contrast(media: np.ndarray, prompts: list[str]) -> np.ndarray:
    return media.reshape(len(media), -1).std(1) / 255


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, (make, _) in FAMILIES.items():
        made[name] = tmp_path_factory.mktemp(name)
        make().save_pretrained(made[name])
    return made


def recipe_of(name, folders, surface, **sections):
    policy = {"weights": str(folders[name]), "surface": surface, **FAMILIES[name][1]}
    sampler = {"type": "ddim", "noise_level": 1.0} if name == "sd" else {"noise_level": 0.5}
    prompts = {"type": "list", "prompts": ["a red circle", "two green triangles"]}
    return validate(
        {
            "policy": policy,
            "prompts": prompts,
            "rollout": {"prompts": 2, "group_size": 3, "steps": 4},
            "method": {"type": "otca", "sampler": sampler},
            "rewards": [
                {"type": "custom", "path": "test_families:redness"},
                {"type": "custom", "path": "test_families:contrast"},
            ],
            "optimiser": {"learning_rate": 1e-3},
            "evaluation": {"prompts": prompts, "count": 4, "watch": 4},
            **sections,
        }
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("surface", [{"type": "lora", "rank": 4}, {"type": "full"}], ids=["lora", "full"])
def test_one_iteration_from_prompts_to_moved_weights(name, surface, folders):
    parts, _ = build_parts(recipe_of(name, folders, surface))
    before = [parameter.detach().clone() for parameter in parts.policy.parameters()]
    done = step(parts, 0)
    moved = [not torch.equal(a, b) for a, b in zip(before, parts.policy.parameters(), strict=True)]
    assert sum(moved) > 0.4 * len(moved)
    assert done.rewards.scores.isfinite().all()
    assert done.report.metrics["update/gradient_norm"] > 0
    trained = parts.policy.trainable(parts.roll_out.levels)
    assert (done.credit.per_step[..., ~trained] == 0).all(), "another network's steps get no credit"
    assert (done.credit.per_step[..., trained][..., :-1] != 0).any()


@pytest.mark.parametrize("name", ["sd3", "wan_both", "qwen_image"])
def test_the_micro_batch_changes_nothing(name, folders):
    results = []
    for size in (1, 64):
        parts, _ = build_parts(
            recipe_of(
                name,
                folders,
                {"type": "lora", "rank": 4},
                rollout={"prompts": 2, "group_size": 3, "steps": 4, "micro_batch": size},
                training={"micro_batch": size},
                optimiser={"learning_rate": 1e-4},
            )
        )
        done = step(parts, 0)
        results.append((done.rollout.final, done.credit.per_step, done.report.metrics["update/gradient_norm"]))
    (one, credit_one, norm_one), (many, credit_many, norm_many) = results
    assert torch.allclose(one, many, atol=1e-4)
    assert torch.allclose(credit_one, credit_many, atol=1e-2)
    assert norm_one == pytest.approx(norm_many, rel=1e-2)
