"""Small complete run folders without any model: made-up scores and pictures, and the credit that a method gives them.

`drawn_run(tmp_path / "run")` is a finished OTCA run of 6 iterations with 3 looks after training began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from stepcredit.evaluation.paired import summarise
from stepcredit.flow import schedules
from stepcredit.recipe.load import to_yaml, validate
from stepcredit.recipe.recipe import Recipe
from stepcredit.records import Credit, Evidence, Problem, RewardTable, StepReport
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.looks import Look
from stepcredit.runs.reader import FORMAT
from stepcredit.scenes.captions import KINDS, balanced, parse, split
from stepcredit.scenes.worlds import facts_of

SIBLINGS = 4
HTML = '<script>document.title = "broken"</script> & "x" \'y\''
HELD_OUT = ("composition", "diversity")
REWARDS = ("clip_t", "hps", "aesthetic")
QUESTIONS = {"object": KINDS, "colour": KINDS, "count": ("count",), "position": ("position",)}


def drawn_run(
    path: Path,
    *,
    state: Literal["finished", "running", "no look", "nothing"] = "finished",
    gains: Mapping[str, float] | None = None,
    captions: Sequence[str] | None = None,
    method: str = "otca",
    rewards: Sequence[str] = REWARDS,
    held_out: Sequence[str] = HELD_OUT,
    missing: Sequence[str] = (),
    iterations: int = 6,
    every: int = 2,
    prompts: int = 3,
    group_size: int = 4,
    steps: int = 5,
    count: int = 48,
    watch: int = 32,
    side: int = 16,
    seed: int = 0,
    similarity: bool = True,
) -> Path:
    """Write a run; `gains` are of the last look, in standard deviations, 1 for all that are not named.

    Nothing of the rewards in `missing` could be scored; of all others one picture could not. Without `similarity` the
    credit files are those of a run in which nobody looked at it.
    """
    generator = np.random.default_rng(seed)
    recipe = validate(
        {
            "seed": seed,
            "policy": {"type": "flux", "weights": "scenes", "surface": {"type": "lora", "rank": 4}, "resolution": 32},
            "prompts": {"type": "scenes"},
            "rollout": {"prompts": prompts, "group_size": group_size, "steps": steps},
            "method": {"type": method},
            "rewards": [{"type": name} for name in rewards],
            "held_out": [{"type": name} for name in held_out],
            "training": {"iterations": iterations},
            "evaluation": {"count": count, "watch": watch, "every": every},
        }
    )
    folder = RunFolder.create(path)
    folder.write_text("run.yaml", to_yaml(recipe))
    folder.write_json("environment.json", {"format": FORMAT, "packages": {"stepcredit": "1"}, "rewards": {}})
    folder.release()
    if state == "nothing":
        return path

    drawn = Drawn.of(
        generator,
        names=(*rewards, *held_out),
        captions=captions or balanced_captions(count),
        gains=gains or {},
        missing=missing,
        count=count,
        watch=watch,
        side=side,
    )
    everything = range(count)
    watched = range(watch)
    base = drawn.look(0, 0.0, everything)
    folder.look(base, watched)
    done = {"finished": iterations, "running": iterations - 1, "no look": 1}[state]
    for iteration in range(done):
        scores = generator.normal(1.0 + 0.2 * iteration / iterations, 0.2, (prompts, group_size, len(rewards)))
        scores[:, :, [rewards.index(name) for name in missing if name in rewards]] = np.nan
        scores[0, 0] = np.nan
        rises = np.sort(generator.uniform(0.0, 1.0, (prompts, group_size, steps + 1)), axis=-1)
        folder.log(StepReport(iteration, metrics(scores, rewards, steps)))
        folder.problems(iteration, [Problem("hps", (1,), "one picture is < broken >")])
        folder.credit(
            iteration,
            credit(recipe, scores, rises),
            rises.astype(np.float32) if similarity else None,
            RewardTable(tuple(rewards), torch.tensor(scores).float()),
            drawn.captions[: prompts * SIBLINGS : SIBLINGS],
        )
        finished = iteration + 1
        if state != "no look" and finished % every == 0 and finished < iterations:
            folder.look(drawn.look(finished, finished / iterations, watched), watched)
    if state == "finished":
        tuned = drawn.look(iterations, 1.0, everything)
        folder.look(tuned, watched)
        folder.write_json("result.json", summarise(base, tuned, rewards))
    return path


@dataclass(frozen=True)
class Drawn:
    """Made-up pictures and scores of held-out captions, `[pictures, scores]` before training and how they change."""

    names: tuple[str, ...]
    captions: list[str]
    before: np.ndarray
    change: np.ndarray
    pictures: list[np.ndarray]  # of the watched rows: those of the base, then those of all later looks

    @classmethod
    def of(
        cls,
        generator: np.random.Generator,
        *,
        names: tuple[str, ...],
        captions: Sequence[str],
        gains: Mapping[str, float],
        missing: Sequence[str],
        count: int,
        watch: int,
        side: int,
    ) -> "Drawn":
        before = generator.normal(1.0, 0.2, (count, len(names)))
        before[0, :] = np.nan
        before[:, [names.index(name) for name in missing]] = np.nan
        change = np.array([gains.get(name, 1.0) for name in names]) * 0.2
        return cls(
            names=names,
            captions=[captions[index // SIBLINGS % len(captions)] for index in range(count)],
            before=before,
            change=change + generator.normal(0.0, 0.02, (count, len(names))),
            pictures=[picture(generator, side) for _ in range(2 * watch)],
        )

    def look(self, iteration: int, share: float, rows: Sequence[int]) -> Look:
        """The look after so many iterations, at which `share` of the change is done."""
        scores = self.before + share * self.change
        watch = len(self.pictures) // 2
        pictures = self.pictures[watch:] if iteration else self.pictures[:watch]
        return Look(
            iteration=iteration,
            weights="trained" if iteration else "base",
            names=self.names,
            rows=tuple(rows),
            prompts=tuple(self.captions[row] for row in rows),
            scores=scores[list(rows)],
            pictures={row: pictures[row] for row in rows if row < watch},
            answers={question: self.answers(question, rows, share) for question in QUESTIONS},
            kinds=tuple(facts_of(self.captions[row]).get("kind") for row in rows),
        )

    def answers(self, question: str, rows: Sequence[int], share: float) -> np.ndarray:
        return np.array([answer(question, self.captions[row], row, share) for row in rows])


def balanced_captions(count: int) -> list[str]:
    """Distinct ones of all kinds, as many as `count` pictures have."""
    return list(dict.fromkeys(map(str, balanced(split("held_out"), 4 * count, seed=0))))[: count // SIBLINGS]


def credit(recipe: Recipe, scores: np.ndarray, similarity: np.ndarray) -> Credit:
    """What the method makes of scores `[P, G, K]` and similarities `[P, G, L]`; the last step is not trained."""
    P, G, L = similarity.shape
    evidence = Evidence(
        rewards=torch.tensor(scores),
        weights=torch.ones(scores.shape[-1]).double(),
        trained=(torch.arange(L - 1) < L - 2).expand(P, G, L - 1),
        transitions=recipe.method.sampler.at(schedules.linear(L - 1)).transitions,
        seen={"similarity": torch.tensor(similarity), "clean_similarity": torch.tensor(similarity[..., 1:])},
    )
    return recipe.method.credit(evidence)


def metrics(scores: np.ndarray, rewards: Sequence[str], steps: int) -> dict[str, float]:
    """A line of metrics.jsonl, with the names that the report looks for."""
    rows = {f"reward/{name}": mean(scores[:, :, k]) for k, name in enumerate(rewards)}
    rows |= {"update/gradient_norm": 0.1, "update/ratio_deviation": 1e-5, "update/clip_fraction": 0.02}
    rows |= {f"update/clip_fraction/{step:02d}": 0.01 * step for step in range(steps - 1)}
    return rows | {"cost/pictures": 12.0, "cost/forwards": 100.0, "time/seconds": 2.0}


def mean(scores: np.ndarray) -> float:
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else float("nan")


def picture(generator: np.random.Generator, side: int) -> np.ndarray:
    """Soft shapes, about as detailed as a photograph."""
    rough = max(4, side // 16)
    colours = generator.integers(0, 256, (rough, rough, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC))


def answer(question: str, caption: str, row: int, share: float) -> float:
    """What the exact checker might have said; NaN where the caption does not ask."""
    parsed = parse(caption)
    applies = parsed is not None and parsed.kind in QUESTIONS[question]
    return float(row % 4 < 1 + 2 * share) if applies else float("nan")
