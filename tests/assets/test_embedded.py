"""The embedded models are what the package promises: small, safetensors only, with the tokenizers of the scripts."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPTokenizer, T5Tokenizer

import stepcredit
from stepcredit.scenes import moving
from stepcredit.scenes.captions import balanced, every_caption
from stepcredit.scenes.moving import MOVING_KINDS
from stepcredit.scenes.moving_checker import check_motion

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


def test_the_video_base_leaves_work_too():
    measured = json.loads((ASSETS / "wan_scenes" / "metrics.json").read_text())
    assert 0.2 <= measured["held_out"]["all"] <= 0.7  # all kinds of flaws are in its last lessons
    assert all(share > 0.05 for share in measured["held_out"].values())  # and something right in every kind
    assert sorted(measured["held_out"]) == sorted(["all", *MOVING_KINDS])


def test_the_tokenizer_of_the_video_generator_knows_every_word():
    from video_generator import LENGTH
    from vocabulary import t5_tokenizer, words

    captions = moving.every_caption()[::7]
    embedded = T5Tokenizer.from_pretrained(ASSETS / "wan_scenes" / "tokenizer")
    scripted = t5_tokenizer(words(moving.every_caption()), LENGTH)
    assert all(embedded(str(c)).input_ids == scripted(str(c)).input_ids for c in captions)
    assert max(len(embedded(str(c)).input_ids) for c in captions) <= LENGTH


def test_the_video_autoencoder_keeps_what_the_checker_reads():
    from common import films_of

    vae: Any = AutoencoderKLWan.from_pretrained(ASSETS / "wan_scenes" / "vae", dtype=torch.float32)
    captions = balanced(moving.every_caption(), 24, 5)
    videos = films_of(captions, 3)[1]
    with torch.no_grad():
        decoded = (vae.decode(vae.encode(videos * 2 - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
    pixels = (decoded * 255).round().byte().permute(0, 2, 3, 4, 1).numpy()
    assert sum(check_motion(video, c).correct for video, c in zip(pixels, captions, strict=True)) >= 20
