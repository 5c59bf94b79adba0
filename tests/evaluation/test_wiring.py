"""What recipes of the drawn worlds make of an evaluation: its questions, its kinds, its frames of right and wrong."""

import numpy as np
import pytest

from fakes import make_recipe
from stepcredit.build import build_evaluator
from stepcredit.records.key import Key
from stepcredit.rewards.suite import RewardSuite
from stepcredit.runs.folder import RunFolder
from stepcredit.runs.looks import Look
from stepcredit.scenes import captions, moving, renderer
from stepcredit.training import looking


def evaluator_of(prompts, held_out):
    recipe = make_recipe(
        rewards=[{"type": "diversity"}],
        held_out=held_out,
        evaluation={"prompts": prompts, "count": 16},
        policy={"type": "wan", "resolution": 32, "frames": 9, "fps": 8} if prompts["type"] == "moving_scenes" else {},
    )
    return build_evaluator(recipe, RewardSuite([]))


@pytest.mark.parametrize(
    ("prompts", "held_out", "world", "draw"),
    [
        ("scenes", "composition", captions, renderer.draw),
        ("moving_scenes", "motion", moving, moving.draw),
    ],
)
def test_the_exact_checker_of_a_world_answers_the_captions_of_its_source(prompts, held_out, world, draw):
    evaluator = evaluator_of({"type": prompts, "split": "held_out"}, [{"type": held_out, "name": "right"}])
    assert evaluator.rewards.exact == ("right",)
    assert evaluator.questions is not None
    for prompt in evaluator.prompts.draw(8, Key(0, iteration=0)):
        answers = evaluator.questions(draw(world.parse(prompt.text), np.random.default_rng(0)), prompt)
        assert answers
        assert all(answers.values())
        assert world.parse(prompt.text).kind == prompt.facts["kind"]


@pytest.mark.parametrize(
    ("exact", "marks"),
    [((), None), (("right",), [(False, True), (True, True)]), (("taste", "right"), [(True, False), (False, False)])],
)
def test_pictures_are_framed_by_the_first_exact_score(tmp_path, monkeypatch, exact, marks):
    def look(scores):
        pictures = {row: np.zeros((8, 8, 3), np.uint8) for row in (0, 1)}
        return Look(0, "base", ("taste", "right"), (0, 1), ("x", "y"), np.array(scores), pictures)

    drawn = []
    monkeypatch.setattr(looking, "before_after", lambda *places, marks, fps: drawn.append(marks))
    base, tuned = look([[1.0, 0.0], [np.nan, 1.0]]), look([[0.0, 1.0], [0.5, 1.0]])
    folder = RunFolder.create(tmp_path / "run")
    looking.draw_before_after(folder, base, tuned, [0, 1], exact)
    assert drawn == [marks]
