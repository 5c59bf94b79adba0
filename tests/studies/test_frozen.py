"""A rollout is drawn once and kept bit for bit; every rule says what it would make of it; what is broken is named."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stepcredit.cli import app as cli
from stepcredit.errors import CreditError, RecipeError, RunError
from stepcredit.flow import schedules
from stepcredit.flow.transitions import read_transitions
from stepcredit.methods import names
from stepcredit.records import Evidence
from stepcredit.studies import frozen

ABOUT = {"objectives": '["clip_t", "hps"]', "prompts": '["a red circle", "zwei \\u00e4hnliche"]', "sampler": "x"}
SMALL = ("--rollout.prompts=1", "--rollout.group_size=4", "--rollout.steps=3", "--threads=1")


def run(*arguments):
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def evidence(weights=(1.0, 1.0), steps=5):
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(2, 6, steps + 1, generator=generator).sort(-1).values
    rewards = torch.randn(2, 6, 2, generator=generator)
    rewards[0, 3, 1] = torch.nan
    return Evidence(
        rewards=rewards,
        weights=torch.tensor(weights),
        trained=(torch.arange(steps) < steps - 1).expand(2, 6, steps),
        transitions=read_transitions("dance_sde", schedules.linear(steps), noise_level=0.3),
        seen={"similarity": similarity, "clean_similarity": similarity[..., 1:]},
    )


def bits(given):
    tensors = {name: getattr(given, name) for name in ("rewards", "weights", "trained")}
    tensors |= {name: given.seen[name] for name in ("similarity", "clean_similarity")}
    tensors |= {name: getattr(given.transitions, name) for name in ("levels", "slope", "std")}
    return {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in tensors.items()}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "rollout.safetensors"
    frozen.store(path, evidence(), ABOUT)
    return path


def test_what_is_stored_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "deep" / "er" / "rollout.safetensors"
    frozen.store(path, evidence(), ABOUT)
    got, about = frozen.load(path)
    assert bits(got) == bits(evidence())
    assert about == ABOUT
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_somebody_else_needs_nothing_but_the_tensors(stored, capsys):
    tensors = load_file(stored)
    tensors["trained"] = tensors["trained"].to(torch.uint8)
    save_file(tensors, stored)
    got, about = frozen.load(stored)
    assert bits(got) == bits(evidence())
    assert about == {}
    found, prompt = frozen.lay_side_by_side(stored, [])
    assert prompt == ""
    assert list(found.verdicts) == names()
    save_file(tensors, stored, metadata={"prompts": "a red circle"})
    assert frozen.lay_side_by_side(stored, [], ["otca"])[1] == "a red circle"


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_a_damaged_file_is_named(stored, capsys, content):
    stored.write_bytes(stored.read_bytes()[:-9] if content is None else content)
    with pytest.raises(RunError, match=r"cannot be read as a stored rollout.*; draw it again"):
        frozen.load(stored)
    assert run("compare", "--dump", str(stored), "--out", str(stored.parent / "found")) == 2
    assert str(stored) in capsys.readouterr().err
    assert not list(stored.parent.glob("found*"))


def test_a_missing_tensor_is_named_with_all_that_are_wanted(stored):
    tensors = load_file(stored)
    save_file({name: tensors[name] for name in tensors if name not in ("std", "similarity")}, stored)
    with pytest.raises(RunError, match="holds no similarity, std; a stored rollout has rewards, weights"):
        frozen.load(stored)


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        frozen.store(tmp_path / "file" / "rollout.safetensors", evidence(), ABOUT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        frozen.store(tmp_path / "folder", evidence(), ABOUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_unknown_method_is_refused_before_anything_is_drawn(tmp_path, stored):
    new = tmp_path / "new.safetensors"
    for path in (stored, new):
        with pytest.raises(RecipeError, match=r'there is no method "otcq"; did you mean "otca"\?'):
            frozen.lay_side_by_side(path, [], ["dance_grpo", "otcq"])
    assert not new.exists()


def test_a_recipe_for_a_rollout_that_is_there_is_refused(stored):
    with pytest.raises(RunError, match="is there already, so --seed would change nothing; remove the file"):
        frozen.lay_side_by_side(stored, ["--seed", "3"])


def test_weights_leave_out_the_rules_that_mix_for_themselves(tmp_path):
    given = evidence(weights=(2.0, 1.0))
    found = frozen.every_rule(given)
    left_out = set(names()) - set(found.verdicts)
    assert left_out >= {"otca", "moca", "tcd", "mgda"}
    assert {"dance_grpo", "flow_grpo", "coca"} <= set(found.verdicts)
    assert set(frozen.every_rule(evidence()).verdicts) == set(names())
    with pytest.raises(CreditError, match="otca, moca would ignore the weights"):
        frozen.every_rule(given, ["otca", "moca"])


RULE = """
from dataclasses import replace
from typing import ClassVar, Literal

from stepcredit.methods import dance_grpo
from stepcredit.methods.base import Method
from stepcredit.parts.likelihood_ratio import LikelihoodRatio
from stepcredit.parts.rule import Rule
from stepcredit.parts.sampling import DanceSDE, Stochastic


class LateRule(Rule):
    def assign(self, evidence):
        credit = dance_grpo.DanceGRPORule().assign(evidence)
        late = credit.per_step.clone()
        late[..., :3] = 0
        return replace(credit, per_step=late)


class Late(Method):
    paper: ClassVar[str] = "ours"
    summary: ClassVar[str] = "DanceGRPO on the last trained step"
    fills: ClassVar[str] = "when"
    type: Literal["their_lab.late"] = "their_lab.late"
    sampler: Stochastic = DanceSDE()
    rule: LateRule = LateRule()
    objective: LikelihoodRatio = LikelihoodRatio()
"""


def test_a_rule_of_ones_own_is_laid_beside(stored, their_lab):
    name = their_lab("late", RULE)
    found, _ = frozen.lay_side_by_side(stored, [], ["dance_grpo", name])
    late = found.verdicts[name]
    assert late.zero_share == pytest.approx(0.75, abs=1e-6)
    assert late.early_share == 0
    assert found.verdicts["dance_grpo"].zero_share == 0


def test_picture_and_table_through_the_command_line(tmp_path, capsys):
    dump, out = tmp_path / "rollout.safetensors", tmp_path / "found"
    assert run("compare", "--dump", str(dump), *SMALL, "--out", str(out)) == 0
    shown = capsys.readouterr().out
    table = out.with_suffix(".md").read_text(encoding="utf-8")
    assert table in shown
    rows = [line.split(" | ")[0].strip("| ") for line in table.splitlines() if line.startswith("|")][2:]
    assert rows == names()
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size[0] > 1500
    given, about = frozen.load(dump)
    assert given.trained.shape == (1, 4, 3)
    assert given.trained[0, 0].tolist() == [True, True, False]
    assert len(json.loads(about["prompts"])) == 1
    assert json.loads(about["objectives"]) == ["clip_t", "hps", "aesthetic"]

    assert run("compare", "--dump", str(dump), "--method", "otca", "dance_grpo", "--out", str(out)) == 0
    again = capsys.readouterr().out.splitlines()
    # Columns are as wide as their longest cell, so the same row may be padded otherwise.
    assert [line.split() for line in again if line.startswith("| otca")] == [
        line.split() for line in table.splitlines() if line.startswith("| otca")
    ]
    assert run("compare", "--dump", str(dump), "--method", "otcq", "--out", str(out)) == 2
    assert 'did you mean "otca"?' in capsys.readouterr().err
    assert run("compare", "--dump", str(dump), "recipes/scenes/otca.yaml", "--out", str(out)) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_drawn_rollout_is_that_of_a_training_run(tmp_path):
    """The same seed draws the same pictures; the sampler is the recipe's."""
    dumps = [tmp_path / f"{name}.safetensors" for name in ("one", "two", "other")]
    for dump, flags in zip(dumps, ((), (), ("--method.sampler.noise_level=0.2",)), strict=True):
        frozen.lay_side_by_side(dump, [*SMALL, *flags], ["dance_grpo"])
    one, two, other = (bits(frozen.load(dump)[0]) for dump in dumps)
    assert one == two
    assert one["rewards"] != other["rewards"]
    levels = [frozen.load(dump)[1]["sampler"] for dump in dumps]
    assert levels == ["dance_sde, noise level 0.7"] * 2 + ["dance_sde, noise level 0.2"]
