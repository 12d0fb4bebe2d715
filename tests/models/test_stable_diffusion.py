import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import torch
from checkpoints import KINDS, networks_of, write_checkpoint
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
from huggingface_hub import constants
from safetensors.torch import load_file

from diffaug.artifacts import read_json
from diffaug.compute.devices import Process
from diffaug.config import DenoiserConfig, FitConfig, GenerateConfig, SamplerConfig, ValidatorConfig
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_rows
from diffaug.diffusion.sampler import sample
from diffaug.errors import ConfigError, ModelError
from diffaug.models.checkpoints import find_checkpoint, verify, verify_base
from diffaug.models.loading import load_model
from diffaug.models.stable_diffusion import StableDiffusion
from diffaug.synthesis.generate import generate
from diffaug.training.fit import fit
from diffaug.training.painter import check_batch, held_out_loss, parts_of, train_painter
from diffaug.training.windows import Annotated, encode_windows, lesion_window

PROMPT = "a small round lesion"
SAMPLER = SamplerConfig(steps=4, guidance=(3.0, 1.0), solver="ab2")
TUNED = DenoiserConfig(lora_rank=4, windows_per_case=2, iterations=3, batch_size=4, learning_rate=1e-3)


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {kind: write_checkpoint(folder / kind, kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def base(bases, request):
    return bases[request.param]


@pytest.fixture
def copy(bases, tmp_path):
    return shutil.copytree(bases["sd2"], tmp_path / "copy")


@pytest.fixture(scope="session")
def windows(bases, phantoms):
    model = load_model(bases["sd2"])  # both have the same codec and tokenizer, but for rounding
    cases = [Annotated.of(case) for case in read_dataset(phantoms).split("train")]
    sketches = [lesion_window(cases[n % 8], 64, 8, (1.3, 2.2), np.random.default_rng(n)) for n in range(8)]
    return encode_windows(model, sketches)


@pytest.fixture(scope="session")
def tuned_config():
    few = {"folds": 2, "windows_per_case": 3, "views_per_case": 1, "iterations": 3, "batch_size": 8, "trajectories": 2}
    validator = ValidatorConfig(alpha=0.4, floor=0.0, **few)
    return FitConfig(denoiser=TUNED, validator=validator, sampler=SAMPLER)


@pytest.fixture(scope="session")
def tuned(bases, phantoms, tuned_config, tmp_path_factory):
    """A model folder fitted on the SD 1.5-shaped checkpoint: what was added, beside a reference to its base."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(bases["sd15"], folder / "base")
    fit(phantoms, folder / "model", tuned_config, base=folder / "base")
    return folder / "model"


def told(model, rows=1):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(rows, 3, 64, 64, generator=generator) * 2 - 1
    region, mask = torch.zeros(2, rows, 1, 64, 64)
    region[:, :, 16:48, 16:48] = mask[:, :, 20:40, 20:44] = 1
    with torch.no_grad():
        return image, region, model.condition(image, region, mask, torch.zeros(rows, 2), model.embed([PROMPT] * rows))


@torch.no_grad()
def estimate(model):
    return model(model.noise([1, 2]), torch.tensor([999, 300]), told(model, 2)[2])


# Loading


def test_a_checkpoint_says_what_it_predicts_and_how_large_its_windows_are(base):
    model = load_model(base)
    assert model.schedule.prediction == {"sd15": "epsilon", "sd2": "v_prediction"}[base.name]
    assert (model.window, model.cell, model.latent_channels, model.classes) == (64, 8, 4, 0)
    assert model.text_encoder.config.hidden_size == KINDS[base.name]["width"]
    assert isinstance(model, StableDiffusion) and not (base.parent / "sprung").exists()


def test_weights_under_old_names_in_half_precision_are_those_that_were_written(bases):
    model, (networks, _) = load_model(bases["sd15"]), networks_of("sd15")
    for name, part in (("unet", model.unet), ("vae", model.codec), ("text_encoder", model.text_encoder)):
        for key, value in networks[name].state_dict().items():
            assert torch.equal(part.state_dict()[key], value.half().float()), key


def test_the_pipeline_of_diffusers_paints_what_our_sampler_paints(bases, in_float32):
    model = load_model(bases["sd15"])
    changes = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}  # as our schedule is
    scheduler = DDIMScheduler.from_config(model.scheduler.config, **changes)
    parts = {"unet": model.unet, "vae": model.codec, "text_encoder": model.text_encoder, "tokenizer": model.tokenizer}
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionInpaintPipeline(**parts, scheduler=scheduler, **without)
    pipeline.set_progress_bar_config(disable=True)
    image, region, conditioning = told(model)
    noise = model.noise([3])
    theirs = pipeline(
        PROMPT, image=(image + 1) / 2, mask_image=region, height=64, width=64, latents=noise, guidance_scale=1.0,
        masked_image_latents=conditioning.masked_image_latents, num_inference_steps=4, output_type="latent",
    ).images  # fmt: skip
    *_, last = sample(model, noise, conditioning, model.schedule, 4, "ddim")
    torch.testing.assert_close(last.x_next, theirs, atol=1e-3, rtol=1e-3)
    assert theirs.std() > 0.3


@pytest.mark.parametrize("classes", [1, 2])
def test_channels_for_masks_and_scale_change_nothing_until_they_are_trained(base, classes, in_float32):
    model = load_model(base)
    image, region, conditioning = told(model)
    with torch.no_grad():
        masks = torch.rand(1, classes, 64, 64, generator=torch.Generator().manual_seed(2))
        conditioning = model.condition(image, region, masks, torch.tensor([[-1.0, 2.0]]), conditioning.text)
        before = model(model.noise([1]), torch.tensor([500]), conditioning)
        model.add_masks(classes)
        after = model(model.noise([1]), torch.tensor([500]), conditioning)
    assert (model.classes, model.unet.config.in_channels) == (classes, 9 + classes + 2)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


# Training


def trained(base, windows, folder, masks=True, **options):
    model = load_model(base)
    if masks:
        model.add_masks(1)
    train_painter(model, [(windows, 1.0)], TUNED.model_copy(update=options), folder)
    return model


def test_a_few_windows_are_learnt_by_low_rank_updates_alone(base, windows, tmp_path):
    model = load_model(base)
    model.add_masks(1)
    plain = {name: value.clone() for name, value in model.unet.state_dict().items()}
    before = held_out_loss(model, windows)
    config = TUNED.model_copy(update={"iterations": 25, "learning_rate": 2e-2, "batch_size": 8})
    train_painter(model, [(windows, 1.0)], config, tmp_path)
    assert held_out_loss(model, windows) < 0.9 * before
    moved = {name for name, value in model.unet.state_dict().items() if not torch.equal(value, plain[name])}
    assert {name for name in moved if "attn" not in name} == {"conv_in.weight"}
    assert torch.equal(model.unet.conv_in.weight[:, :9], plain["conv_in.weight"][:, :9])
    kept = {name.split("/", 1)[1] for name in load_file(tmp_path / "painter.checkpoint")}
    assert all("lora_" in name or "conv_in.parametrizations" in name for name in kept)  # no average of whole networks


def test_parts_of_a_batch_cover_every_row_once_and_in_order():
    for size, most, count in ((8, None, 1), (8, 2, 2), (7, 1, 1), (16, 2, 4), (5, 4, 2)):
        slices = [part for index in range(count) for part in parts_of(size, most, Process(index, count))]
        assert [row for part in slices for row in range(size)[part]] == list(range(size))
        assert all(part.start < part.stop for part in slices)
    with pytest.raises(ConfigError, match="batch_size is 4"):
        check_batch(4, Process(0, 5))


@pytest.mark.parametrize("way", ["parts", "recomputed"])
def test_a_batch_in_parts_and_recomputed_activations_train_the_same(
    bases, windows, tmp_path, way, monkeypatch, in_float32
):
    whole = trained(bases["sd2"], windows, tmp_path / "whole")
    if way == "parts":
        monkeypatch.setattr("diffaug.models.stable_diffusion.CELLS", 2 * 64)  # two rows of 8 x 8 cells at a time
    other = trained(bases["sd2"], windows, tmp_path / "other", checkpointing=way == "recomputed")
    for name, value in whole.adapters.lora.items():
        torch.testing.assert_close(other.adapters.lora[name], value, atol=2e-5, rtol=1e-3)
    assert not other.unet.is_gradient_checkpointing


def test_low_rank_updates_are_float32_numbers_and_resume(bases, windows, tmp_path, monkeypatch):
    model = trained(bases["sd15"], windows, tmp_path / "whole")
    assert all(value.dtype == torch.float32 for value in model.adapters.lora.values())
    monkeypatch.setattr("diffaug.training.loop.CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        calls = iter([False, True])
        real = StableDiffusion.__call__

        def stop(*arguments):
            if next(calls):
                raise KeyboardInterrupt
            return real(*arguments)

        patch.setattr(StableDiffusion, "__call__", stop)
        trained(bases["sd15"], windows, tmp_path / "broken")
    resumed = trained(bases["sd15"], windows, tmp_path / "broken")
    for name, value in model.adapters.lora.items():
        assert torch.equal(resumed.adapters.lora[name], value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_fits_and_paints_what_the_cpu_does_but_for_the_last_digits(tuned, phantoms, tuned_config, tmp_path):
    denoiser = TUNED.model_copy(update={"checkpointing": True})
    config = tuned_config.model_copy(update={"denoiser": denoiser})
    fit(phantoms, tmp_path / "model", config, base=tuned.parent / "base", device="cuda")
    there, here = load_model(tmp_path / "model", "cuda"), load_model(tmp_path / "model")
    assert there.device.type == "cuda" and estimate(there).device.type == "cpu"
    torch.testing.assert_close(estimate(there), estimate(here), atol=0.5, rtol=0.1)  # noise at t = 999, in bfloat16
    torch.testing.assert_close(estimate(here), estimate(load_model(tuned)), atol=0.5, rtol=0.1)
    summary = generate(tmp_path / "model", phantoms, tmp_path / "set", GenerateConfig(count=2), device="cuda")
    assert summary["kept"] >= 2


@pytest.mark.slow
def test_processes_that_accelerate_launches_train_what_one_trains(bases, phantoms, tmp_path):
    options = [
        "--lora",
        "2",
        "--denoiser.iterations",
        "4",
        "--denoiser.batch-size",
        "8",
    ]
    options += ["--denoiser.windows-per-case", "2", "--validator.views-per-case", "1", "--validator.iterations", "3"]
    options += ["--validator.windows-per-case", "6", "--validator.trajectories", "0"]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    script = tmp_path / "in_float32.py"  # the same digits on every machine
    script.write_text(
        "from contextlib import nullcontext\n"
        "import diffaug.models.base\n"
        "from diffaug.cli.main import main\n"
        "diffaug.models.base.autocast = lambda device: nullcontext()\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    printed, values = [], []
    for number, words in enumerate(([], launch)):
        model = tmp_path / str(number)
        command = [sys.executable, *words, str(script), "fit", str(phantoms), str(model)]
        command += ["--base", str(bases["sd2"]), *options, "--json"]
        printed.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        assert verify(model)
        values.append(load_file(model / "pytorch_lora_weights.safetensors"))
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, atol=2e-6, rtol=1e-4)
    assert [json.loads(text)["annotated"] for text in printed] == [8, 8]  # one of the processes speaks


# The model folder


def test_a_tuned_model_holds_what_was_added_and_a_reference_to_its_base(tuned):
    names = {path.name for path in tuned.iterdir()}
    assert names >= {"pytorch_lora_weights.safetensors", "mask_channels.safetensors", "base.json", "digests.json"}
    assert not names & {"unet", "vae", "text_encoder", "scheduler"}
    assert "unet/config.json" in read_json(tuned / "base.json")["files"]
    model = load_model(tuned)
    assert (model.classes, model.unet.config.in_channels) == (1, 12)
    assert verify(tuned)


@pytest.mark.parametrize("merge", [False, True])
def test_a_loaded_model_says_what_was_trained_merged_or_not(bases, windows, tmp_path, merge):
    model = trained(bases["sd2"], windows, tmp_path / "training")
    model.base = None if merge else find_checkpoint(bases["sd2"])
    model.save(tmp_path / "model")
    assert (tmp_path / "model" / "unet").exists() == merge
    assert torch.equal(estimate(load_model(tmp_path / "model")), estimate(model))
    assert not torch.allclose(estimate(model), estimate(load_model(bases["sd2"])), atol=1e-3)


def test_a_tuned_model_is_a_base_like_any_other(tuned, windows, tmp_path):
    model = trained(tuned, windows, tmp_path / "training", masks=False)
    model.base = find_checkpoint(tuned)
    model.save(tmp_path / "model")
    assert torch.equal(estimate(load_model(tmp_path / "model")), estimate(model))


def test_a_tuned_model_paints_with_the_gate_in_few_steps(tuned, phantoms, tmp_path):
    config = GenerateConfig(count=2, negatives=0.0, shard_size=4, slots=2)
    summary = generate(
        tuned, phantoms, tmp_path / "set", config, device="auto" if not torch.cuda.is_available() else "cpu"
    )
    assert summary.funnel.lesions.kept >= 2
    rows = read_rows(tmp_path / "set" / "manifest.jsonl")
    assert all([check.step for check in row.checks] == [2, 4] for row in rows if row.decision == "kept")
    for case in read_dataset(tmp_path / "set").cases:
        assert case.read_mask().any()


def test_a_base_that_changed_or_went_away_is_told_and_its_new_place_is_no_other_model(tuned, tmp_path):
    model = shutil.copytree(tuned, tmp_path / "model")
    base = shutil.copytree(tuned.parent / "base", tmp_path / "elsewhere")
    digest = verify(model)
    place = json.loads((model / "base_place.json").read_text())
    (model / "base_place.json").write_text(json.dumps({**place, "name": str(base)}))
    assert verify(model) == digest
    (base / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"scheduler_config\.json is missing or another file"):
        verify(model)
    shutil.rmtree(base)
    for look in (verify, load_model):
        with pytest.raises(ModelError, match="elsewhere is gone") as error:
            look(model)
        assert "\n" not in str(error.value)


def test_stable_diffusion_without_low_rank_updates_is_refused_before_any_work(bases, phantoms, tuned_config, tmp_path):
    whole = tuned_config.model_copy(update={"denoiser": TUNED.model_copy(update={"lora_rank": 0})})
    with pytest.raises(ConfigError, match="add --lora 16"):
        fit(phantoms, tmp_path / "model", whole, base=bases["sd2"])
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:9", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused_before_any_work(phantoms, tuned, tuned_config, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match="a device must be") as error:
        fit(phantoms, tmp_path / "model", tuned_config, device=device)
    with pytest.raises(ConfigError, match="a device must be"):
        generate(tuned, phantoms, tmp_path / "set", GenerateConfig(count=1), device=device)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_latents_of_a_codec_of_eight_pixels_a_cell_come_back_as_pixels(bases):
    model = load_model(bases["sd15"])
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = model.encode(image)
        assert latents.shape == (1, 4, 8, 8) and model.decode(latents).shape == image.shape
        torch.testing.assert_close(latents, 0.18215 * model.codec.encode(image).latent_dist.mean)


# What is refused


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(name, pattern):
    with pytest.raises(ModelError, match=pattern) as error:
        find_checkpoint(name)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_does_not_inpaint_is_refused(copy):
    for channels in (4, 8, 10, 11):
        edit(copy / "unet" / "config.json", in_channels=channels)
        refused(copy, f"takes {channels}; use an inpainting checkpoint")


def test_another_architecture_is_refused(copy):
    edit(copy / "unet" / "config.json", addition_embed_type="text_time")
    refused(copy, "second text encoder")
    shutil.rmtree(copy / "unet")
    refused(copy, "has no unet/")


def test_an_unknown_prediction_and_noise_at_zero_signal_are_refused(copy):
    config = copy / "scheduler" / "scheduler_config.json"
    edit(config, prediction_type="flow_prediction")
    refused(copy, "predicts 'flow_prediction'")
    edit(config, prediction_type="epsilon", rescale_betas_zero_snr=True)
    refused(copy, "needs some signal at every timestep")


def test_pickles_are_refused_and_never_opened(bases, copy, tmp_path):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.copy(bases["sd15"] / "unet" / "diffusion_pytorch_model.bin", copy / "unet")
    refused(copy, r"only safetensors are loaded, pickles \(\.bin, \.ckpt\) never: .* has none in unet/")
    shutil.copy(bases["sd15"] / "unet" / "diffusion_pytorch_model.bin", tmp_path / "sd-v1-5-inpainting.ckpt")
    refused(tmp_path / "sd-v1-5-inpainting.ckpt", "diffusers-format folder is needed")
    assert not (bases["sd15"].parent / "sprung").exists()


# The hub


class Hub(BaseHTTPRequestHandler):
    """What the hub's client asks of it, for one repository; `gated` and all other names are as on the hub."""

    folder = None
    asked: ClassVar[list[str]] = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if "/gated/" in path:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if "/our/base" not in path:
            return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = {file.relative_to(self.folder).as_posix(): file for file in self.folder.rglob("*") if file.is_file()}
        if path.startswith("/api/") and "/tree/" in path:
            rows = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": name} for name, file in files.items()
            ]
            return self.answer(200, json.dumps(rows).encode())
        if path.startswith("/api/"):
            listed = [{"rfilename": name} for name in files]
            return self.answer(200, json.dumps({"id": "our/base", "sha": self.commit, "siblings": listed}).encode())
        name = path.split(f"/{self.commit}/")[1]
        self.asked.append(name)
        return self.answer(200, files[name].read_bytes(), {"ETag": f'"{name}"', "X-Repo-Commit": self.commit})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for key, value in {**dict(headers), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(bases, tmp_path, monkeypatch):
    """A hub on this machine that has one checkpoint, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Hub, "folder", bases["sd15"])
    monkeypatch.setattr(Hub, "asked", [])
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_name_is_downloaded_once_without_pickles_and_then_needs_no_network(
    hub, bases, windows, tmp_path, monkeypatch
):
    found = find_checkpoint("our/base")
    assert (found.name, found.revision) == ("our/base", Hub.commit)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in Hub.asked
    assert not any(name.endswith((".bin", ".ckpt")) for name in Hub.asked)
    assert found.digests() == find_checkpoint(bases["sd15"]).digests()
    model = trained(found.folder, windows, tmp_path / "training")
    model.base = found
    model.save(tmp_path / "model")
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint("our/base") == found
    assert torch.equal(estimate(load_model(tmp_path / "model")), estimate(model))


def test_gated_and_unknown_repositories_are_told_with_their_remedy(hub):
    refused("gated/base", "accept its terms at https://huggingface.co/gated/base, then run `hf auth login`")
    refused("nobody/nothing", "is neither; check its name")


def test_a_repository_that_does_not_inpaint_is_refused_before_its_weights_are_downloaded(hub, copy, monkeypatch):
    edit(copy / "unet" / "config.json", in_channels=4)
    monkeypatch.setattr(Hub, "folder", copy)
    refused("our/base", "takes 4; use an inpainting checkpoint")
    assert not any(name.endswith(".safetensors") for name in Hub.asked)


def test_a_name_that_is_not_cached_is_told_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("our/base", "not cached whole and HF_HUB_OFFLINE is set; connect once, or give the path of a folder")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("our/base", "not cached whole and the hub cannot be reached")


@pytest.mark.parametrize(
    ("name", "revision", "line"),
    [
        ("{model}", "", "leads back to"),
        ("{other}", "", "leads back to"),
        ("../x", "0a1b", "says where its base lies"),
        ("a/b", "../../..", "says where its base lies"),
        (["a/b"], "0a1b", "says where its base lies"),
    ],
)
def test_a_base_that_leads_back_or_is_no_name_is_one_line(tmp_path, name, revision, line):
    places = {one: tmp_path / one for one in ("model", "other")}
    for one, next_one in (("model", name), ("other", str(places["model"]))):
        places[one].mkdir()
        place = next_one.format(**places) if isinstance(next_one, str) else next_one
        for file, value in (("model_index.json", {}), ("base.json", {"files": {}})):
            (places[one] / file).write_text(json.dumps(value))
        (places[one] / "base_place.json").write_text(json.dumps({"name": place, "revision": revision}))
    with pytest.raises(ModelError, match=line) as error:
        verify_base(places["model"])
    assert "\n" not in str(error.value)
