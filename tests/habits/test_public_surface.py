"""Public names, fields, flags and files change on purpose, not by the way."""

import difflib
from pathlib import Path

import pytest
from surface import describe_module, surface

import stepcredit

WRITTEN = Path(__file__).with_name("public_surface.txt")
SHORT = {
    "threads": 1,
    "rollout.prompts": 1,
    "rollout.group_size": 2,
    "rollout.steps": 3,
    "training.iterations": 1,
    "evaluation.count": 16,
    "evaluation.watch": 8,
    "evaluation.steps": 2,
    "evaluation.every": 1,
    "output.checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surface") / "run"
    stepcredit.train(**SHORT, **{"output.folder": str(folder)})
    return folder


def test_what_is_public_is_what_is_written_down(run_folder, request):
    now = "\n".join(surface(run_folder)) + "\n"
    if request.config.getoption("--update-surface", default=False):
        WRITTEN.write_text(now, encoding="utf-8")
    before = WRITTEN.read_text(encoding="utf-8")
    changes = difflib.unified_diff(before.splitlines(), now.splitlines(), "written down", "now", lineterm="", n=1)
    assert now == before, "what is public changed; edit on purpose with: make surface\n" + "\n".join(changes)


def test_a_field_an_argument_and_a_member_are_part_of_it(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "LIMIT = 3\n_hidden = 4\n\n"
        "def rule(rewards: Tensor, *, floor: float = 0.5) -> Credit: ...\n"
        "def _helper(): ...\n\n"
        "class Credit(Record):\n"
        "    weights: Tensor\n"
        "    _cache: dict\n"
        "    @property\n"
        "    def steps(self) -> int: ...\n"
        "    def of(self, ids: Tensor) -> Credit: ...\n"
    )
    assert list(describe_module(module)) == [
        "LIMIT",
        "rule(rewards, *, floor=0.5)",
        "class Credit(Record)",
        "    weights: Tensor",
        "    steps",
        "    of(self, ids)",
    ]
