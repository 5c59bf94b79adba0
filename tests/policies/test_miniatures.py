"""The tiny pipelines of `miniatures` build, save, load and draw by diffusers' own means."""

from functools import partial

import pytest
import torch
from torch import nn

import miniatures

PICTURE = {"height": 16, "width": 16}
CALLS = {
    "flux": (miniatures.flux, PICTURE | {"guidance_scale": 3.5, "max_sequence_length": 16}, (3, 16, 16)),
    "sd3": (miniatures.sd3, PICTURE | {"guidance_scale": 3.0, "max_sequence_length": 16}, (3, 16, 16)),
    "wan": (
        miniatures.wan,
        PICTURE | {"num_frames": 5, "guidance_scale": 3.0, "max_sequence_length": 16},
        (5, 3, 16, 16),
    ),
    "wan of two experts": (
        partial(miniatures.wan, experts=2),
        PICTURE | {"num_frames": 5, "guidance_scale": 3.0, "guidance_scale_2": 2.0, "max_sequence_length": 16},
        (5, 3, 16, 16),
    ),
    "qwen_image": (
        miniatures.qwen_image,
        PICTURE | {"true_cfg_scale": 3.0, "negative_prompt": [" ", " "], "max_sequence_length": 16},
        (3, 16, 16),
    ),
    "sd": (miniatures.sd, PICTURE | {"guidance_scale": 5.0}, (3, 16, 16)),
}
PROMPTS = ["a red circle", "a white triangle left of a blue square"]  # of different length


def draw(pipe, prompts, call, output_type="latent"):
    generator = torch.Generator().manual_seed(1)
    return pipe(prompts, num_inference_steps=2, generator=generator, output_type=output_type, **call)[0]


@pytest.mark.parametrize("family", CALLS)
def test_a_miniature_draws_and_survives_its_folder(family, tmp_path):
    build, call, shape = CALLS[family]
    pipe = build()
    drawn = draw(pipe, PROMPTS, call)
    pictures = torch.as_tensor(draw(pipe, PROMPTS, call, "pt"))
    assert drawn.isfinite().all()
    assert pictures.shape == (2, *shape)
    assert pictures.isfinite().all()
    assert pictures.std() > 0.05

    other_words = draw(pipe, ["a blue square", *PROMPTS[1:]], call)
    assert (other_words[0] - drawn[0]).abs().mean() > 0.005
    assert torch.allclose(other_words[1], drawn[1], atol=1e-5)

    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(draw(loaded, PROMPTS, call), drawn)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 2_000_000


def test_weights_follow_the_seed_and_leave_other_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (weights(miniatures.wan(seed, experts=2)) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert sum(not torch.equal(a, b) for a, b in zip(first, other, strict=True)) > len(first) / 2
    assert all(weight.any() and weight.dtype == torch.float32 for weight in first)


def test_two_experts_differ_and_the_second_draws_the_low_noise():
    pipe = miniatures.wan(experts=2)
    assert pipe.config["boundary_ratio"] == 0.875
    one, two = weights_of(pipe.transformer), weights_of(pipe.transformer_2)
    assert any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))
    _, call, _ = CALLS["wan"]
    drawn = draw(pipe, PROMPTS, call)
    assert not torch.equal(drawn, draw(miniatures.wan(), PROMPTS, call))


def test_the_template_of_qwen_image_has_the_tokens_that_its_pipeline_drops():
    pipe = miniatures.qwen_image()
    before = pipe.tokenizer(pipe.prompt_template_encode.split("{}")[0])["input_ids"]
    assert len(before) == pipe.prompt_template_encode_start_idx
    _, mask = pipe.encode_prompt(PROMPTS)
    assert mask.sum(1).tolist() == [8, 13]  # the words and the five tokens after them


def weights(pipe):
    return [w for part in pipe.components.values() if isinstance(part, nn.Module) for w in weights_of(part)]


def weights_of(network):
    return [weight.detach() for weight in network.parameters()]
