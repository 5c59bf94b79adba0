"""What leaves the house draws our pictures in plain diffusers, says what it is, and names no machine's folders."""

import json
import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from diffusers import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import miniatures
import stepcredit
from drawn_runs import drawn_run
from fakes import FakePolicy
from stepcredit.build import build_policy, open_generator
from stepcredit.cli.app import main
from stepcredit.errors import RecipeError, RunError, WeightsError
from stepcredit.exporting import card, hub
from stepcredit.files.seal import read_json, sealed
from stepcredit.policies import lora_file
from stepcredit.recipe.load import load_recipe, to_yaml, validate
from stepcredit.rollout.engine import sample_ode
from stepcredit.settings.policies import LoRA
from stepcredit.training import checkpoint
from stepcredit.training.anchors import Average

PROMPTS = ["a red circle", "two green triangles left of a blue square"]
STEPS = 3
NAME = "pytorch_lora_weights.safetensors"
SIDES = {"height": 16, "width": 16}
CASES = {
    "flux": (miniatures.flux, {"max_tokens": 16}, {"max_sequence_length": 16}),
    "sd3": (miniatures.sd3, {"max_tokens": 16, "guidance": 3.0}, {"max_sequence_length": 16, "guidance_scale": 3.0}),
    "wan": (
        miniatures.wan,
        {"frames": 5, "max_tokens": 16, "guidance": 3.0},
        {"num_frames": 5, "max_sequence_length": 16, "guidance_scale": 3.0},
    ),
    "wan_2": (
        lambda: miniatures.wan(experts=2),
        {"frames": 5, "max_tokens": 16, "guidance": 3.0, "guidance_2": 2.0},
        {"num_frames": 5, "max_sequence_length": 16, "guidance_scale": 3.0, "guidance_scale_2": 2.0},
    ),
    "qwen_image": (
        miniatures.qwen_image,
        {"max_tokens": 64, "guidance": 3.0},
        {"max_sequence_length": 64, "true_cfg_scale": 3.0, "negative_prompt": [" "] * 2},
    ),
    "sd": (miniatures.sd, {"guidance": 3.0}, {"guidance_scale": 3.0}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Each miniature saved once, in a folder of its name."""
    place = tmp_path_factory.mktemp("bases")

    def folder(name):
        if not (place / name).is_dir():
            CASES[name][0]().save_pretrained(place / name)
        return place / name

    return folder


def recipe_of(policy, **sections):
    return validate(
        {
            "policy": policy,
            "prompts": {"type": "list", "prompts": PROMPTS},
            "rollout": {"steps": STEPS},
            "method": {"type": "dance_grpo"},
            "rewards": [{"type": "custom", "path": "fakes:unused", "name": "red"}],
            "evaluation": {"prompts": {"type": "list", "prompts": PROMPTS}},
            **sections,
        }
    )


def tuned(name, bases, surface=None, **more):
    """A recipe on a miniature, and its generator as if it had been trained."""
    surface = surface or {"type": "lora", "rank": 4}
    settings = {"weights": str(bases(name)), "surface": surface, "resolution": 16, **CASES[name][1], **more}
    recipe = recipe_of({"type": name.removesuffix("_2"), **settings})
    policy = build_policy(recipe)
    disturb(policy, 0)
    return recipe, policy


def disturb(policy, seed):
    generator = torch.Generator().manual_seed(seed)
    size = 0.05 if isinstance(getattr(policy, "settings", None) and policy.settings.surface, LoRA) else 0.03
    for parameter in policy.parameters():
        parameter.data += size * torch.randn(parameter.shape, generator=generator)


def stored(path, recipe, policy, iterations=(1,), average=None):
    """A run folder with checkpoints of the policy as it is."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "run.yaml").write_text(to_yaml(recipe))
    about = {"format": 2, "packages": {"stepcredit": "0.1.0"}, "rewards": {"red": {"file": str(path / "judge.py")}}}
    (path / "environment.json").write_text(json.dumps(about))
    optimiser = torch.optim.SGD(policy.parameters(), lr=1.0)
    for iteration in iterations:
        checkpoint.save(path / "checkpoints", policy, optimiser, average, iteration=iteration)
    return path


def noise_for(policy):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(PROMPTS), *policy.latent_shape(), generator=generator)


@torch.no_grad()
def our_media(policy):
    return policy.decode(sample_ode(policy, policy.encode(PROMPTS), policy.levels(STEPS, None), noise_for(policy)))


def loaded(policy, folder):
    """The pipeline as plain diffusers loads it, with the sampler that ours is."""
    pipe = type(policy.pipe).from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if policy.prediction == "noise":
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True, clip_sample=False)
    return pipe


def drawn(name, policy, pipe):
    call = {**SIDES, **CASES[name][2]}
    media = pipe(PROMPTS, num_inference_steps=STEPS, latents=noise_for(policy), output_type="pt", **call)[0]
    return torch.as_tensor(media).float()


def with_lora(pipe, folder):
    pipe.unload_lora_weights()
    if (folder / NAME).is_file():
        pipe.load_lora_weights(folder)
    if (folder / "transformer_2").is_dir():
        pipe.load_lora_weights(folder / "transformer_2", load_into_transformer_2=True)
    return pipe


def without_metadata(folder, copy):
    for path in folder.rglob(NAME):
        (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        save_file(load_file(path), copy / path.relative_to(folder))
    return copy


def names_of_places(folder, place):
    return [path for path in folder.rglob("*") if path.is_file() and str(place).encode() in path.read_bytes()]


@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_draws_our_pictures_in_the_plain_pipeline(name, bases, tmp_path):
    recipe, policy = tuned(name, bases)
    run = stored(tmp_path / "run", recipe, policy)
    wanted = our_media(policy)
    with policy.reference():
        assert (our_media(policy) - wanted).abs().max() > 0.01, "the LoRA of this test must change the pictures"

    lora = stepcredit.export(run)
    assert lora == run / "export"
    plain = loaded(policy, bases(name))
    assert (drawn(name, policy, with_lora(plain, lora)) - wanted).abs().max() <= 1e-4
    bare = without_metadata(lora, tmp_path / "bare")
    assert (drawn(name, policy, with_lora(plain, bare)) - wanted).abs().max() <= 1e-4, "alpha = rank, as readers assume"

    merged = stepcredit.export(run, merged=True, out=tmp_path / "merged")
    pipe = loaded(policy, merged)
    assert (drawn(name, policy, pipe) - wanted).abs().max() <= 1e-4
    for network in policy.surface.networks:
        assert not any("lora" in key for key, _ in getattr(pipe, network).named_parameters())
    for folder in (lora, merged):
        assert not names_of_places(folder, tmp_path)
        assert not names_of_places(folder, bases(name).parent)
        assert not list(folder.parent.glob(".*.writing"))


@pytest.mark.parametrize("name", ["wan_2", "sd"])
def test_fully_trained_networks_draw_our_pictures(name, bases, tmp_path):
    recipe, policy = tuned(name, bases, {"type": "full", "modules": ["attn"]})
    run = stored(tmp_path / "run", recipe, policy)
    wanted = our_media(policy)
    folder = stepcredit.export(run)
    plain = loaded(policy, bases(name))
    assert (drawn(name, policy, plain) - wanted).abs().max() > 0.01
    for network in policy.surface.networks:
        trained = type(getattr(plain, network)).from_pretrained(folder / network)
        plain.register_modules(**{network: trained})
        with safe_open(folder / network / "diffusion_pytorch_model.safetensors", framework="pt") as file:
            assert file.metadata()["method"] == "dance_grpo"
    assert (drawn(name, policy, plain) - wanted).abs().max() <= 1e-4
    merged = stepcredit.export(run, merged=True, out=tmp_path / "merged")
    assert (drawn(name, policy, loaded(policy, merged)) - wanted).abs().max() <= 1e-4
    assert not names_of_places(folder, bases(name).parent) + names_of_places(merged, bases(name).parent)


def test_merging_adds_in_float32_and_keeps_the_dtype():
    layer = torch.nn.Linear(8, 8).to(torch.bfloat16)
    network = torch.nn.Sequential(layer)
    before = layer.weight.float()
    matrices = lora_file.Matrices(torch.randn(2, 8), torch.randn(8, 2), 0.5)
    lora_file.merge(network, {"0": matrices})
    assert torch.equal(layer.weight, (before + matrices.change()).to(torch.bfloat16))


def without_lora(network):
    """The weights that an adapter does not touch, in order."""
    return [weight for name, weight in network.state_dict().items() if ".lora_" not in name]


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("flux", "lora", {}),
        ("wan_2", "lora", {}),
        ("wan_2", "lora", {"experts": "low_noise"}),
        ("sd", "full", {}),
        ("qwen_image", "merged", {}),
    ],
)
def test_the_code_of_the_card_loads_and_draws(name, kind, more, bases, tmp_path, monkeypatch):
    recipe, policy = tuned(name, bases, {"type": "full"} if kind == "full" else None, **more)
    run = stored(tmp_path / "run", recipe, policy)
    os.symlink(bases(name), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    folder = stepcredit.export(run, out="shared", merged=kind == "merged")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(code.replace("your prompt", PROMPTS[0]), names)
    picture = names.get("picture") or names["video"][0]
    assert getattr(picture, "size", (16, 16)) == (16, 16) or picture.shape[:2] == (16, 16)
    with_adapter = [n for n in policy.family.networks() if getattr(getattr(names["pipe"], n), "peft_config", None)]
    assert with_adapter == (list(policy.surface.networks) if kind == "lora" else [])
    for name_of_network, trained in policy.surface.networks.items():
        in_training = without_lora(trained)
        as_loaded = without_lora(getattr(names["pipe"], name_of_network))
        same = all(torch.equal(a, b) for a, b in zip(in_training, as_loaded, strict=True))
        assert same == (kind != "merged")


class Stub(FakePolicy):
    """Saves a LoRA of one module, whose weights say what they are."""

    def save(self, folder):
        folder.mkdir(parents=True)
        first = self.parameters()[0].detach()
        tensors = {"transformer.block.to_q.lora_A.weight": torch.ones(2, 3)}
        tensors |= {"transformer.block.to_q.lora_B.weight": first.mean() * torch.ones(5, 2)}
        notes = {"transformer.r": 2, "transformer.lora_alpha": 6, "transformer.target_modules": ["block.to_q"]}
        save_file(tensors, folder / NAME, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(notes)})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run on the embedded miniature with checkpoints after 4 and 6 iterations, made once."""
    run = drawn_run(tmp_path_factory.mktemp("runs") / "mine", rewards=("clip_t", "hps"))
    (run / "before_after.png").write_bytes(b"a picture")
    policy = Stub()
    for iteration in (4, 6):
        policy.parameters()[0].data.fill_(iteration)
        optimiser = torch.optim.SGD(policy.parameters(), lr=1.0)
        checkpoint.save(run / "checkpoints", policy, optimiser, None, iteration=iteration)
    return run


@pytest.fixture
def finished(made, tmp_path):
    """A copy of it; one of its rewards stood on a folder of this machine."""
    run = shutil.copytree(made, tmp_path / "runs" / "mine")
    environment = read_json(run / "environment.json")
    environment["rewards"] = {"clip_t": {"weights": "0123456789abcdef"}, "hps": {"weights": str(tmp_path / "judge")}}
    (run / "environment.json").write_text(json.dumps(sealed(environment)))
    return run


def changed(run, **settings):
    """The same run as if its recipe had been another."""
    recipe = load_recipe(run / "run.yaml", settings)
    (run / "run.yaml").write_text(to_yaml(recipe))
    return run


def front_and_body(folder):
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_scale_is_folded_in_and_the_metadata_says_what_it_is(finished):
    folder = stepcredit.export(finished)
    with safe_open(folder / NAME, framework="pt") as file:
        notes = file.metadata()
    tensors = load_file(folder / NAME)
    assert (tensors["transformer.block.to_q.lora_B.weight"] == 18).all(), "6 times alpha / rank = 6 / 2"
    assert (tensors["transformer.block.to_q.lora_A.weight"] == 1).all()
    assert json.loads(notes["lora_adapter_metadata"])["transformer.lora_alpha"] == 2
    assert all(isinstance(value, str) for value in notes.values())
    about = json.loads((folder / "stepcredit.json").read_text())
    assert about.pop("files") == ["README.md", "before_after.png", NAME, "stepcredit.json"]
    assert about == {
        "stepcredit": "1",
        "base_model": "the embedded miniature of stepcredit",
        "base_revision": "none",
        "method": "otca",
        "seed": "0",
        "iteration": "6",
        "weights": "last",
        "trigger_words": "none needed",
    }
    assert notes.items() >= about.items()
    unchanged = load_file(finished / "checkpoints" / "000006" / "adapter" / NAME)
    assert (unchanged["transformer.block.to_q.lora_B.weight"] == 6).all()


def test_the_card_tells_what_the_run_knows(finished):
    front, body = front_and_body(stepcredit.export(finished))
    assert front == {
        "license": "apache-2.0",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "text-to-image", "reinforcement-learning", "stepcredit"],
    }
    result = json.loads((finished / "result.json").read_text())
    for row in result["rows"]:
        (line,) = re.findall(
            rf"^\| {row['name']} \| .*", body.split("## Results")[1].split("##")[0], flags=re.MULTILINE
        )
        fewer = "" if row["pictures"] == 48 else f", {row['pictures']} of 48 samples"
        wanted = f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]{fewer}"
        assert f"| {row['base']:.4g} | {row['tuned']:.4g} | {wanted} |" in line
        assert line.endswith("held out |" if row["name"] in ("composition", "diversity") else "trained |")
    assert "48 samples of 12 captions" in body
    assert "The run is finished" in body
    assert "| clip_t | trained | 1 | weights `0123456789abcdef` |" in body
    assert "| hps | trained | 1 | weights `judge` |" in body
    assert "| composition | held out |  | not recorded |" in body
    assert "6 iterations of `otca` (arXiv 2604.19234)" in body
    assert "these are the last weights" in body
    assert "![The same captions and noise before and after training](before_after.png)" in body
    assert 'files("stepcredit") / "assets" / "flux_scenes"' in body
    assert "@misc{2604.19234," in body
    recipe = yaml.safe_load(re.findall(r"````yaml\n(.*?)````", body, flags=re.DOTALL)[0])
    assert recipe["policy"]["surface"]["rank"] == 4


def test_a_base_of_the_hub_is_named_with_its_licence_and_revision(finished):
    settings = {"policy.weights": "black-forest-labs/FLUX.1-dev", "policy.revision": "abc", "policy.dtype": "bfloat16"}
    folder = stepcredit.export(changed(finished, **settings))
    front, body = front_and_body(folder)
    assert front["license"] == "other"
    assert front["license_link"] == "https://huggingface.co/black-forest-labs/FLUX.1-dev"
    assert front["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert front["base_model_relation"] == "adapter"
    assert "FluxPipeline.from_pretrained('black-forest-labs/FLUX.1-dev', revision='abc', dtype=torch.bfloat16)" in body
    assert json.loads((folder / "stepcredit.json").read_text())["base_revision"] == "abc"
    folder = stepcredit.export(changed(finished, **{"policy.weights": "black-forest-labs/FLUX.1-schnell"}))
    assert front_and_body(folder)[0]["license"] == "apache-2.0"


def test_no_place_on_the_machine_is_told(finished, tmp_path):
    settings = {
        "policy.weights": str(tmp_path / "secret" / "my-flux"),
        "policy.surface.start": str(tmp_path / "earlier"),
        "prompts.type": "file",
        "prompts.path": str(tmp_path / "prompts.txt"),
        "output.folder": str(finished),
    }
    folder = stepcredit.export(changed(finished, **settings))
    front, body = front_and_body(folder)
    assert "base_model" not in front, "the hub takes its own models only"
    assert "otca on my-flux" in body
    assert "went on from the LoRA `earlier`" in body
    assert "path: prompts.txt" in body
    assert not names_of_places(folder, tmp_path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/me/models/flux", True),
        ("~/flux", True),
        ("../flux", True),
        ("C:\\models\\flux", True),
        ("owner/name", False),
        ("my_rewards:sharpness", False),
    ],
)
def test_places_are_told_from_names(text, wanted):
    assert card.is_place(text) == wanted
    assert card.without_paths({"weights": text, "prompts": [text]})["prompts"] == [text]


@pytest.mark.parametrize("state", ["running", "nothing"])
def test_an_unfinished_run_is_said_to_be_unfinished(tmp_path, state):
    run = drawn_run(tmp_path / "run", state=state)
    policy = Stub()
    checkpoint.save(run / "checkpoints", policy, torch.optim.SGD(policy.parameters()), None, iteration=2)
    _, body = front_and_body(stepcredit.export(run))
    done = 5 if state == "running" else 0
    assert f"The run is not finished: {done} iterations so far, of 6. These weights were not measured." in body
    assert "95 %" not in body
    assert "before_after" not in body


def test_numbers_and_pictures_of_other_weights_are_not_shown(finished):
    folder = stepcredit.export(finished, iteration=4)
    _, body = front_and_body(folder)
    assert (load_file(folder / NAME)["transformer.block.to_q.lora_B.weight"] == 12).all()
    assert "These weights were not measured. The run's own result is of the last weights after 6 iterations." in body
    assert not (folder / "before_after.png").exists()
    earlier_result = sealed(read_json(finished / "result.json") | {"iteration": 4})
    (finished / "evaluations").mkdir()
    (finished / "evaluations" / "000004-trained-48.json").write_text(json.dumps(earlier_result))
    assert "95 % interval" in front_and_body(stepcredit.export(finished, iteration=4))[1]


def test_the_moving_average_is_taken_unless_raw_is_asked_for(tmp_path, finished):
    policy = Stub()
    policy.parameters()[0].data.fill_(10.0)
    average = Average(policy.parameters(), 0.5)
    policy.parameters()[0].data.fill_(20.0)
    optimiser = torch.optim.SGD(policy.parameters())
    checkpoint.save(finished / "checkpoints", policy, optimiser, average, iteration=7)
    weights = {}
    for raw in (False, True):
        folder = stepcredit.export(finished, raw=raw, out=tmp_path / f"raw {raw}")
        weights[raw] = float(load_file(folder / NAME)["transformer.block.to_q.lora_B.weight"][0, 0]) / 3
        words = "the last weights" if raw else "the moving average of the trained weights"
        assert f"these are {words}" in front_and_body(folder)[1]
    assert weights == {False: 10.0, True: 20.0}


def test_an_earlier_export_is_replaced_and_nothing_else(finished, tmp_path):
    folder = stepcredit.export(finished, iteration=4)
    stepcredit.export(finished, iteration=6)
    assert json.loads((folder / "stepcredit.json").read_text())["iteration"] == "6"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds notes\.txt.*nothing was changed.*--out"):
        stepcredit.export(finished)
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(RunError, match="no part of an export"):
        stepcredit.export(finished, out=finished)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        stepcredit.export(finished, out=tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert (stepcredit.export(finished, out=tmp_path / "empty") / "README.md").is_file()


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_what_was_there(finished, monkeypatch, error):
    folder = stepcredit.export(finished, iteration=4)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(*_):
        raise error

    monkeypatch.setattr("stepcredit.exporting.card.render", fail)
    with pytest.raises(RunError if isinstance(error, OSError) else KeyboardInterrupt):
        stepcredit.export(finished)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(finished.glob(".export*"))


def test_what_cannot_be_exported_is_refused(finished, tmp_path):
    with pytest.raises(RunError, match="there is no checkpoint 5"):
        stepcredit.export(finished, iteration=5)
    with pytest.raises(RecipeError, match="--push-to-hub"):
        stepcredit.export(finished, private=True)
    with pytest.raises(RunError, match="no whole checkpoint"):
        stepcredit.export(drawn_run(tmp_path / "early", state="nothing"))
    (finished / "checkpoints" / "000006" / "adapter" / NAME).write_bytes(b"")
    assert json.loads((stepcredit.export(finished) / "stepcredit.json").read_text())["iteration"] == "4"


def test_the_command_line_exports(finished, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", str(finished), "--checkpoint", "4", "--out", str(tmp_path / "out")])
    assert not end.value.code
    assert str(tmp_path / "out" / "README.md") in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "stepcredit.json").read_text())["iteration"] == "4"


class Hub:
    """In place of `HfApi`: remembers what it was asked for."""

    failing: Exception | None = None
    private = True

    def create_repo(self, name, *, private, exist_ok):
        requests.append(("create", name, private, exist_ok))
        if self.failing is not None:
            raise self.failing

    def model_info(self, name):
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        requests.append(("upload", repo_id, sorted(os.listdir(folder_path)), commit_message))


requests = []


@pytest.fixture
def fake_hub(monkeypatch):
    requests.clear()
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub.huggingface_hub, "get_token", lambda: "a token")
    monkeypatch.setattr(hub.huggingface_hub.constants, "is_offline_mode", lambda: False)
    return monkeypatch


def test_a_finished_export_is_pushed(finished, fake_hub):
    folder = stepcredit.export(finished, push_to_hub="me/mine", private=True)
    created, uploaded = requests
    assert created == ("create", "me/mine", True, True)
    assert uploaded[:3] == ("upload", "me/mine", sorted(os.listdir(folder)))
    assert "otca, seed 0, 6 iterations" in uploaded[3]
    assert "pipe.load_lora_weights('me/mine')" in (folder / "README.md").read_text()


def test_nothing_is_pushed_that_was_not_written_whole(finished, fake_hub):
    fake_hub.setattr("stepcredit.exporting.card.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stepcredit.export(finished, push_to_hub="me/mine")
    assert requests == []


def test_a_public_repository_is_not_taken_for_a_private_one(finished, fake_hub):
    fake_hub.setattr(Hub, "private", False)
    with pytest.raises(RunError, match=r"is public, and --private was asked for; nothing was uploaded"):
        stepcredit.export(finished, push_to_hub="me/mine", private=True)
    assert [what for what, *_ in requests] == ["create"]


def refused(status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return hub.HfHubHTTPError(f"{status}", response=response)


@pytest.mark.parametrize(
    ("failing", "wanted"),
    [
        (refused(401), "hf auth login"),
        (refused(403), r"may not write to me/mine.*hf auth whoami"),
        (refused(500), "refused me/mine"),
        (hub.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE"),
        (OSError("no route to host"), r"cannot be reached \(no route to host\)"),
    ],
)
def test_a_push_that_fails_says_what_to_do_and_keeps_the_export(finished, fake_hub, failing, wanted):
    fake_hub.setattr(Hub, "failing", failing)
    with pytest.raises(RunError, match=wanted) as error:
        stepcredit.export(finished, push_to_hub="me/mine")
    assert "The export is whole in" in str(error.value)
    assert (finished / "export" / "README.md").is_file()


def test_a_push_that_cannot_succeed_is_refused_before_anything_is_written(finished, fake_hub):
    for name in ("mine", "me/mine/again", "me/ mine"):
        with pytest.raises(RunError, match="OWNER/NAME"):
            stepcredit.export(finished, push_to_hub=name)
    fake_hub.setattr(hub.huggingface_hub, "get_token", lambda: None)
    with pytest.raises(RunError, match=r"no token.*hf auth login.*HF_TOKEN"):
        stepcredit.export(finished, push_to_hub="me/mine")
    fake_hub.setattr(hub.huggingface_hub.constants, "is_offline_mode", lambda: True)
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set"):
        stepcredit.export(finished, push_to_hub="me/mine")
    assert not (finished / "export").exists()
    assert requests == []


def opened(name, bases, **surface):
    settings, _ = tuned(name, bases, {"type": "lora", "rank": 4, **surface})
    return build_policy(settings)


@torch.no_grad()
def apart(one, other):
    """How far two generators' velocities are from each other, in parts of their size."""
    x = noise_for(one)
    levels = torch.tensor([0.95, 0.4])
    first, second = (policy.velocity(x, levels, policy.encode(PROMPTS)) for policy in (one, other))
    return (first - second).abs().max() / second.abs().max()


@pytest.mark.parametrize("name", ["wan_2", "sd"])
@pytest.mark.parametrize("alpha", [None, 3])
def test_training_goes_on_from_an_export(name, alpha, bases, tmp_path):
    recipe, policy = tuned(name, bases)
    folder = stepcredit.export(stored(tmp_path / "run", recipe, policy))
    for start in (folder, tmp_path / "run" / "checkpoints" / "000001" / "adapter"):
        again = opened(name, bases, alpha=alpha, start=str(start))
        assert apart(again, policy) <= 1e-5
    if name == "sd":
        again = opened(name, bases, alpha=alpha, start=str(folder / NAME))
        assert apart(again, policy) <= 1e-5


def test_a_lora_of_another_base_is_refused(bases, tmp_path):
    recipe, policy = tuned("flux", bases)
    folder = stepcredit.export(stored(tmp_path / "run", recipe, policy))
    file = folder / NAME
    other_base = "belongs to another base or other targets"
    with pytest.raises(WeightsError, match=r"has rank 4 and policy\.surface\.rank is 8"):
        opened("flux", bases, rank=8, start=str(folder))
    with pytest.raises(WeightsError, match=rf"proj_mlp is not adapted here.*and \d+ more.*{other_base}"):
        opened("flux", bases, targets="attention", start=str(folder))
    with pytest.raises(WeightsError, match=rf"is not in the file.*{other_base}"):
        opened("sd3", bases, start=str(folder))
    with pytest.raises(WeightsError, match=rf"not a LoRA in diffusers format for `unet`.*{other_base}"):
        opened("sd", bases, start=str(folder))
    with pytest.raises(WeightsError, match=r"one file, and 2 networks are trained"):
        opened("wan_2", bases, start=str(file))
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("attn.to_q.lora_A.weight"))
    save_file({**tensors, key: torch.zeros(4, 7)}, tmp_path / "narrow.safetensors")
    with pytest.raises(
        WeightsError, match=rf"to_q has \(32, 4\) x \(4, 7\), wanted \(32, 4\) x \(4, 32\).*{other_base}"
    ):
        opened("flux", bases, start=str(tmp_path / "narrow.safetensors"))
    save_file({key: tensors[key]}, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match=r"lacks .*lora_B"):
        opened("flux", bases, start=str(tmp_path / "half.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        opened("flux", bases, start=str(tmp_path / "broken.safetensors"))


def test_a_start_that_is_not_there_is_refused_before_the_base_is_loaded(tmp_path):
    settings = {"type": "flux", "weights": str(tmp_path / "no base"), "surface": {"start": str(tmp_path)}}
    with pytest.raises(WeightsError, match=r"policy\.surface\.start is .* where there is no LoRA"):
        open_generator(recipe_of(settings | {"surface": {"type": "lora", "start": str(tmp_path)}}).policy)


def test_alpha_of_each_module_counts_and_what_is_not_known_is_refused(tmp_path):
    tensors = {"transformer.a.lora_A.weight": torch.ones(2, 3), "transformer.a.lora_B.weight": torch.ones(3, 2)}
    save_file({**tensors, "transformer.a.alpha": torch.tensor(8.0)}, tmp_path / "alpha.safetensors")
    before = lora_file.read(tmp_path / "alpha.safetensors", "transformer")["a"]
    assert before.scale == 4
    lora_file.fold(tmp_path / "alpha.safetensors", {})
    assert load_file(tmp_path / "alpha.safetensors").keys() == tensors.keys()
    after = lora_file.read(tmp_path / "alpha.safetensors", "transformer")["a"]
    assert torch.equal(after.change(), before.change())
    notes = {"lora_adapter_metadata": json.dumps({"transformer.use_rslora": True, "transformer.lora_alpha": 2})}
    save_file(tensors, tmp_path / "other.safetensors", metadata=notes)
    with pytest.raises(WeightsError, match=r"use_rslora, which is not supported"):
        lora_file.read(tmp_path / "other.safetensors", "transformer")
