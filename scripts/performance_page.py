"""Fills the table of counted models in docs/performance.md, so that its numbers are those of the dry run.

python scripts/performance_page.py
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stepcredit.costs.meter import Meter, metered
from stepcredit.costs.sketch import decode, encode, gradient, sketch, velocity
from stepcredit.recipe.load import validate
from stepcredit.recipe.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN = "<!-- counted models: scripts/performance_page.py -->"
END = "<!-- end -->"

FLUX = {"type": "flux", "weights": "black-forest-labs/FLUX.1-dev"}
SD3 = {"type": "sd3"}
WAN = {"type": "wan"}
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("FLUX.1-dev, 512 x 512", FLUX),
    ("FLUX.1-dev, 512 x 512, text of 128", FLUX | {"max_tokens": 128}),
    ("FLUX.1-dev, 1024 x 1024", FLUX | {"resolution": 1024}),
    ("SD 3.5 medium, 512 x 512", SD3),
    ("SD 3.5 medium, 1024 x 1024", SD3 | {"resolution": 1024}),
    ("SD 3.5 large, 512 x 512", SD3 | {"weights": "stabilityai/stable-diffusion-3.5-large"}),
    ("Wan 2.1 1.3B, 53 frames of 240 x 416", WAN),
    ("Wan 2.1 1.3B, 53 frames of 480 x 832", WAN | {"resolution": (480, 832)}),
    ("Wan 2.1 14B, 53 frames of 240 x 416", WAN | {"weights": "Wan-AI/Wan2.1-T2V-14B-Diffusers"}),
    ("Qwen-Image, 512 x 512, text of 64", {"type": "qwen_image", "max_tokens": 64}),
    ("SD 1.5, 512 x 512", {"type": "sd"}),
]
PROMPT = " ".join(["word"] * 600)  # longer than any tokenizer takes, so that texts are as long as they can be


@dataclass(frozen=True)
class Counts:
    """One model with one prompt: FLOPs, bytes of activations, frozen weights. E.g. FLUX.1-dev at 512 x 512:
    `forward` 21.5e12, `backward` 24.3e12, `decoding` 2.51e12, `text` 4.86e12, `activations` 10_986_495_296."""

    weights: int
    forward: int
    backward: int
    decoding: int
    text: int
    activations: int


def recipe_of(policy: dict[str, Any], *, checkpointing: bool) -> Recipe:
    """One model, unguided, with a LoRA of rank 64 on its attention."""
    settings = {
        "dtype": "bfloat16",
        "surface": {"type": "lora", "rank": 64, "targets": "attention"},
        "gradient_checkpointing": checkpointing,
        **policy,
    }
    if policy["type"] != "flux":  # whose guidance is a number that the network is told, and no second forward
        settings["guidance"] = 1.0
    return validate(
        {
            "policy": settings,
            "prompts": {"type": "list", "prompts": [PROMPT]},
            "method": {"type": "ddpo" if policy["type"] == "sd" else "otca"},
            "rewards": [{"type": "custom", "path": "a:b"}],
        }
    )


def counts(recipe: Recipe) -> Counts:
    """Work and memory of one sample."""
    generator = sketch(recipe)
    encoding, condition = encode(generator, [PROMPT])
    ((name, network),) = generator.family.networks().items()
    for parameter in generator.parameters():  # gradients are not activations
        parameter.grad = torch.empty_like(parameter)
    with generator.reference():  # the base's own forward, as papers count it
        forward = measure(partial(velocity, generator, condition, name))
    adapted = measure(partial(velocity, generator, condition, name))
    update = measure(partial(gradient, generator, condition, name))
    decoding, _ = decode(generator)
    return Counts(
        weights=sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad),
        forward=forward.flops,
        backward=update.flops - adapted.flops,
        decoding=decoding.flops,
        text=encoding.flops,
        activations=update.peak,
    )


def measure(call: Callable[[], object]) -> Meter:
    with metered() as meter:
        call()
    return meter


def row(name: str, policy: dict[str, Any]) -> str:
    """One line of the table."""
    plain = counts(recipe_of(policy, checkpointing=False))
    again = counts(recipe_of(policy, checkpointing=True))
    flops = (plain.forward, plain.backward, again.backward, plain.decoding, plain.text)
    numbers = [
        f"{plain.weights / 1e9:.2f} B",
        *(f"{number / 1e12:.4g}" for number in flops),
        *(f"{size / 2**30:.3g}" for size in (plain.activations, again.activations)),
    ]
    return f"| {name} | {' | '.join(numbers)} |"


def table() -> str:
    """The table in Markdown."""
    head = (
        "model | weights | forward | backward | with checkpointing | decoding | text | activations | with checkpointing"
    )
    lines = [f"| {head} |", "|---" * 9 + "|"]
    return "\n".join(lines + [row(name, policy) for name, policy in ROWS])


if __name__ == "__main__":
    counted = table()
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", flags=re.DOTALL)
    # A function, since in a plain text `sub` would read backslashes as references to groups.
    filled = pattern.sub(lambda _: f"{BEGIN}\n{counted}\n{END}", page)
    PAGE.write_text(filled, encoding="utf-8")
    print(f"wrote {PAGE}")
