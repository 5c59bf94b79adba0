"""Fills the table of counted models in docs/performance.md, so that its numbers are those of the dry run.

python scripts/performance_page.py
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stepcredit.costs import count as costs
from stepcredit.recipe.load import validate

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- counted models: scripts/performance_page.py -->", "<!-- end -->"

FLUX, SD3 = {"type": "flux", "weights": "black-forest-labs/FLUX.1-dev"}, {"type": "sd3"}
WAN, BIG = {"type": "wan"}, "Wan-AI/Wan2.1-T2V-14B-Diffusers"
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("FLUX.1-dev, 512 x 512", FLUX),
    ("FLUX.1-dev, 512 x 512, text of 128", FLUX | {"max_tokens": 128}),
    ("FLUX.1-dev, 1024 x 1024", FLUX | {"resolution": 1024}),
    ("SD 3.5 medium, 512 x 512", SD3),
    ("SD 3.5 medium, 1024 x 1024", SD3 | {"resolution": 1024}),
    ("SD 3.5 large, 512 x 512", SD3 | {"weights": "stabilityai/stable-diffusion-3.5-large"}),
    ("Wan 2.1 1.3B, 53 frames of 240 x 416", WAN),
    ("Wan 2.1 1.3B, 53 frames of 480 x 832", WAN | {"resolution": (480, 832)}),
    ("Wan 2.1 14B, 53 frames of 240 x 416", WAN | {"weights": BIG}),
    ("Qwen-Image, 512 x 512, text of 64", {"type": "qwen_image", "max_tokens": 64}),
    ("SD 1.5, 512 x 512", {"type": "sd"}),
]
PROMPT = " ".join(["word"] * 600)


def row(name: str, policy: dict[str, Any]) -> str:
    """One model, unguided, with a LoRA of rank 64 on its attention."""
    surface = {"type": "lora", "rank": 64, "targets": "attention"}
    told = {"dtype": "bfloat16", "surface": surface, **policy} | ({} if policy["type"] == "flux" else {"guidance": 1.0})
    sizes = []
    for checkpointing in (False, True):
        recipe = validate(
            {
                "policy": told | {"gradient_checkpointing": checkpointing},
                "prompts": {"type": "list", "prompts": [PROMPT]},
                "method": {"type": "ddpo" if policy["type"] == "sd" else "otca"},
                "rewards": [{"type": "custom", "path": "a:b"}],
            }
        )
        generator = costs.sketch(recipe)
        encoding, condition = costs.encode(generator, [PROMPT])
        (network,) = generator.family.networks()
        frozen = [p for p in generator.family.networks()[network].parameters() if not p.requires_grad]
        for parameter in generator.parameters():
            parameter.grad = torch.empty_like(parameter)
        with generator.reference():
            forward = costs.measure(partial(costs.velocity, generator, condition, network)).flops
        adapted = costs.measure(partial(costs.velocity, generator, condition, network)).flops
        both = costs.measure(partial(costs.gradient, generator, condition, network))
        sizes.append((both.flops - adapted, both.peak))
    latent = torch.empty(1, *generator.latent_shape(), device=costs.META)
    decoded = costs.measure(partial(generator.decode, latent)).flops
    (backward, plain), (again, small) = sizes
    numbers = [
        f"{sum(p.numel() for p in frozen) / 1e9:.2f} B",
        *(f"{flops / 1e12:.4g}" for flops in (forward, backward, again, decoded, encoding.flops)),
        *(f"{size / 2**30:.3g}" for size in (plain, small)),
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
    filled = pattern.sub(lambda _: f"{BEGIN}\n{counted}\n{END}", page)
    PAGE.write_text(filled, encoding="utf-8")
    print(f"wrote {PAGE}")
