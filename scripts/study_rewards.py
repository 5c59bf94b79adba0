"""Do the three embedded rewards disagree, and how can each be hacked? Prints the tables of docs/rewards.md.

python scripts/study_rewards.py              a minute or two on two cores; draws docs/images/reward_correlation.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from stepcredit.build import build_parts, build_rewards
from stepcredit.recipe.load import load_recipe
from stepcredit.records import Prompt, RewardBatch
from stepcredit.records.key import Key
from stepcredit.rewards.suite import RewardSuite
from stepcredit.rollout.decoding import finished
from stepcredit.scenes.captions import Caption, Thing, balanced, split
from stepcredit.scenes.renderer import draw
from stepcredit.settings.rewards import HPS, Aesthetic, ClipT, Composition
from stepcredit.training.step import score

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "reward_correlation.png"
WARM = Caption("count", (Thing("red", "circle"),), count=3)


def siblings(prompts: int, group_size: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Raw scores [P, G, K] of the base generator's own samples, composition last."""
    flags = ["--rollout.prompts", str(prompts), "--rollout.group_size", str(group_size)]
    parts, evaluator = build_parts(load_recipe("recipes/scenes/otca.yaml", flags))
    captions = parts.prompts.draw(prompts, Key(11, iteration=0))
    rollout = parts.roll_out(captions, Key(parts.seed, iteration=0))
    decoded = finished(parts.policy, rollout, parts.roll_out.micro_batch)
    table = score(evaluator.rewards, decoded, captions)
    # Diversity says how unlike its siblings a picture is, not how good: it takes no part in the comparison.
    columns = [index for index, name in enumerate(table.names) if name != "diversity"]
    return tuple(table.names[index] for index in columns), table.scores[..., columns].double().numpy()


def correlations(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation within groups [K, K], pooled, and the share of sibling pairs ranked in opposite order."""
    # Within groups: that all rewards like an easy caption is no agreement about pictures.
    centred = scores - scores.mean(1, keepdims=True)
    flat = centred.reshape(-1, scores.shape[-1])
    within = np.corrcoef(flat.T)
    first, second = np.triu_indices(scores.shape[1], 1)
    order = np.sign(scores[:, first] - scores[:, second]).reshape(-1, scores.shape[-1])
    opposite = np.empty_like(within)
    for a in range(scores.shape[-1]):
        for b in range(scores.shape[-1]):
            # A tie is no order, so nobody contradicts it.
            decided = (order[:, a] != 0) & (order[:, b] != 0)
            opposite[a, b] = (order[decided, a] != order[decided, b]).mean()
    return within, opposite


def tricks(captions: list[Caption], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Pictures for the same captions: the honest one, and ways to please one judge without the caption."""
    true = np.stack([draw(caption, generator) for caption in captions])
    of_another = np.stack([draw(captions[(index + 5) % len(captions)], generator) for index in range(len(captions))])
    noise = generator.normal(0, 25, true.shape)
    return {
        "true picture": true,
        "picture of another caption": of_another,
        "three red circles, whatever was asked": np.stack([draw(WARM, generator) for _ in captions]),
        "true picture, all its objects twice": np.maximum(true, true[:, :, ::-1]),
        "true picture, blurred": np.stack([ndimage.gaussian_filter(p, (1.2, 1.2, 0)) for p in true]),
        "true picture, noise on top": (true + noise).clip(0, 255).astype(np.uint8),
        "empty ground": np.broadcast_to(true[:1, :1, :1], true.shape).copy(),
    }


def ask(suite: RewardSuite, pictures: np.ndarray, captions: list[Caption]) -> np.ndarray:
    batch = RewardBatch(pictures, Prompt.listed(map(str, captions)), tuple(range(len(captions))))
    return suite.score(batch)[0].mean(0)


def heat_map(names: tuple[str, ...], within: np.ndarray) -> None:
    figure = Figure(figsize=(4.6, 3.9), dpi=110)
    axes = figure.add_subplot()
    image = axes.imshow(within, vmin=-1, vmax=1, cmap="RdBu")
    axes.set_xticks(range(len(names)), names, rotation=25)
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(within):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    axes.set_title("correlation within groups of siblings", fontsize=10)
    figure.colorbar(image, shrink=0.8)
    figure.tight_layout()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=12)
    options = parser.parse_args()
    torch.manual_seed(0)

    names, scores = siblings(options.prompts, options.group_size)
    within, opposite = correlations(scores)
    heat_map(names, within)
    print(f"{options.prompts} captions x {options.group_size} siblings of the base generator\n")
    print("| | " + " | ".join(names) + " |\n|---" * 1 + "|---" * len(names) + "|")
    for row, name in enumerate(names):
        cells = [f"{within[row, c]:+.2f} ({opposite[row, c]:.0%})" if c != row else "1" for c in range(len(names))]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n(correlation within groups, in brackets the share of sibling pairs ranked in opposite order)\n")

    suite = build_rewards([ClipT(), HPS(), Aesthetic(), Composition()], torch.device("cpu"))
    captions = balanced(split("held_out"), 200, seed=5)
    print("| picture | " + " | ".join(suite.names) + " |\n|---" + "|---" * len(suite.names) + "|")
    for trick, pictures in tricks(captions, np.random.default_rng(5)).items():
        values = ask(suite, pictures, captions)
        print(f"| {trick} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
