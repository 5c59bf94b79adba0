"""The embedded models are what the package promises: small, safetensors only, with the tokenizers of the scripts."""

import json
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer, T5Tokenizer

import stepcredit
from stepcredit.scenes.captions import every_caption

ASSETS = Path(stepcredit.__file__).parent / "assets"
sys.path.append(str(Path(__file__).parents[2] / "scripts" / "assets"))


def test_all_assets_together_stay_below_15_megabytes():
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 15e6


def test_weights_are_safetensors_and_nothing_else():
    kinds = {path.suffix for path in ASSETS.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".txt", ".md"}


def test_nothing_names_a_machine():
    texts = [path.read_text() for path in ASSETS.rglob("*.json")]
    assert not any("_name_or_path" in text for text in texts)


@pytest.mark.parametrize("folder", ["clip_scenes", "hps_scenes", "flux_scenes/tokenizer"])
def test_clip_tokenizers_number_words_as_the_script_does(folder):
    from vocabulary import clip_tokenizer

    embedded, scripted = CLIPTokenizer.from_pretrained(ASSETS / folder), clip_tokenizer()
    assert all(embedded(str(c)).input_ids == scripted(str(c)).input_ids for c in every_caption())
    assert len({tuple(embedded(str(c)).input_ids) for c in every_caption()}) == len(every_caption())


def test_the_t5_tokenizer_numbers_words_as_the_script_does():
    from vocabulary import LENGTH, t5_tokenizer

    embedded, scripted = T5Tokenizer.from_pretrained(ASSETS / "flux_scenes" / "tokenizer_2"), t5_tokenizer()
    assert all(embedded(str(c)).input_ids == scripted(str(c)).input_ids for c in every_caption())
    assert max(len(embedded(str(c)).input_ids) for c in every_caption()) <= LENGTH


def test_base_quality_leaves_work_for_reinforcement_learning():
    measured = json.loads((ASSETS / "flux_scenes" / "metrics.json").read_text())
    assert 0.45 <= measured["held_out"]["all"] <= 0.75
