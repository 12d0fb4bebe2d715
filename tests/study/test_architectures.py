"""What `study.network` names: each network's shapes, where its weights come from, and what is refused."""

import json
import sys

import pytest
import torch
from safetensors import safe_open
from study_folders import make_dataset
from torch import nn

from diffaug.artifacts import read_json
from diffaug.config import LITE, UNET, StudyConfig, config_from_values
from diffaug.data.folder import read_dataset
from diffaug.encoder import load_trunk
from diffaug.errors import ConfigError, StudyError
from diffaug.study.architectures import (
    Backbone,
    check_name,
    check_network,
    digest_of_network,
    identity_of_study,
)
from diffaug.study.arms import Arm
from diffaug.study.batches import Batches
from diffaug.study.network import build_network, load_network, save_weights, train
from diffaug.study.records import key_of_run
from diffaug.study.study import run_study

OWN = """
import torch
from torch import nn

def small(classes):
    return nn.Conv2d(3, classes, 3, padding=1)

def coarse(classes):
    return nn.Conv2d(3, classes, 3, stride=2, padding=1)

def broken(classes):
    raise RuntimeError("no\\nluck")

def text(classes):
    return "a network"

def fixed(classes):
    return nn.Conv2d(3, classes, 1).requires_grad_(False)

def deep(classes):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, classes, 1)
        def forward(self, images):
            return self.head(self.encoder(images))
    return Deep()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the working directory, by a name that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.parent.name}_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN)
    digest_of_network.cache_clear()
    yield name
    sys.path[:] = [place for place in sys.path if place != str(tmp_path)]
    sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """Tiny backbones of random weights: one of `AutoBackbone`, SegFormer, and a transformer of one scale."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        ResNetConfig,
        ResNetModel,
        SegformerConfig,
        SegformerModel,
    )

    folder = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    made = {
        "resnet": ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])),
        "segformer": SegformerModel(
            SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2])
        ),
        "dinov2": Dinov2Model(
            Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=70)
        ),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
    norm = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "segformer" / "preprocessor_config.json").write_text(json.dumps(norm))
    return folder


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("size", [64, 96, 160])
@pytest.mark.parametrize("name", [LITE, UNET])
def test_a_network_has_a_logit_for_each_pixel_and_class(name, size, classes):
    network = build_network(StudyConfig(network=name, size=size), 0, classes).eval()
    assert network(torch.rand(2, 3, size, size)).shape == (2, classes, size, size)


def test_the_default_network_starts_from_the_shipped_encoder_and_a_decoder_of_its_seed():
    config = StudyConfig(size=64)
    assert config.network == LITE
    one, again, other = (build_network(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    shipped = load_trunk().state_dict()
    assert all(torch.equal(other[f"encoder.{key}"], value) for key, value in shipped.items())
    assert not torch.equal(one["levels.0.layers.0.weight"], other["levels.0.layers.0.weight"])


@pytest.mark.parametrize("name", ["resnet", "segformer", "dinov2"])
def test_a_backbone_of_transformers_becomes_a_network_that_is_trained_whole(backbones, name):
    config = StudyConfig(network=str(backbones / name), size=64)
    check_network(config, 2)
    network = build_network(config, 0, 2).train()
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    trained = [
        key for key, value in network.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0
    ]
    assert any(key.startswith("encoder.") for key in trained) and any(key.startswith("levels.") for key in trained)


def test_a_backbone_sees_images_as_its_base_was_trained_to(backbones):
    encoder = build_network(StudyConfig(network=str(backbones / "segformer"), size=64), 0).encoder
    assert isinstance(encoder, Backbone)
    assert encoder.mean.flatten().tolist() == [0.5] * 3 and encoder.deviation.flatten().tolist() == [0.25] * 3
    plain = build_network(StudyConfig(network=str(backbones / "resnet"), size=64), 0).encoder
    assert plain.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_trained_backbone_is_read_without_its_base(backbones, tmp_path):
    (tmp_path / "base").symlink_to(backbones / "segformer")
    config = StudyConfig(network=str(tmp_path / "base"), size=64)
    network = build_network(config, 3).eval()
    save_weights(network, tmp_path / "weights.safetensors")
    (tmp_path / "base").unlink()
    images = torch.rand(1, 3, 64, 64)
    found = load_network(config, tmp_path / "weights.safetensors")
    assert torch.equal(found(images), network(images))
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert str(tmp_path) not in str(file.metadata()) and str(backbones) not in str(file.metadata())


@pytest.mark.parametrize("name", [LITE, UNET])
def test_what_is_saved_is_what_is_read(name, tmp_path):
    config = StudyConfig(network=name, size=64)
    network = build_network(config, 3).eval()
    save_weights(network, tmp_path / "weights.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(load_network(config, tmp_path / "weights.safetensors")(images), network(images))
    other = StudyConfig(network=LITE if name == UNET else UNET, size=64)
    with pytest.raises(StudyError, match="weights of a run must be whole"):
        load_network(other, tmp_path / "weights.safetensors")


def test_the_users_own_function_is_found_in_the_working_directory(own):
    config = StudyConfig(network=f"{own}:small", size=64)
    check_network(config, 3)
    assert isinstance(build_network(config, 0, 3), nn.Conv2d)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("coarse", r"returns \(2, 1, 32, 32\)"),
        ("broken", "failed: RuntimeError: no luck"),
        ("text", "returns str"),
        ("fixed", "no parameter that needs a gradient"),
    ],
)
def test_a_function_that_makes_no_network_is_refused_in_one_line(own, function, told):
    with pytest.raises(StudyError, match=told) as error:
        check_network(StudyConfig(network=f"{own}:{function}", size=64), 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no_such_module:build", "json:no_such_function", "diffaug:version:x"])
def test_a_function_that_cannot_be_imported_is_refused_in_one_line(name):
    with pytest.raises(ConfigError, match="must be importable"):
        check_network(StudyConfig(network=name), 1)


@pytest.mark.parametrize("name", ["efficientnet", "u-net", "a/b/c", ""])
def test_a_network_of_no_kind_is_refused_by_the_names_that_there_are(name):
    with pytest.raises(ConfigError, match=f"must be {LITE}, {UNET}"):
        check_name(name)


def test_a_backbone_that_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for name, told in ((str(tmp_path / "empty"), "config.json"), ("nobody/nothing-at-all", "path of a folder")):
        with pytest.raises(ConfigError, match=told) as error:
            check_network(StudyConfig(network=name), 1)
        assert "\n" not in str(error.value)


def test_the_network_sets_the_defaults_of_its_schedule_wherever_it_is_named():
    unet, lite = StudyConfig(network=UNET), StudyConfig()
    assert (unet.iterations, unet.learning_rate) == (8000, 2e-3) and lite.iterations < 8000
    assert StudyConfig(network=UNET, iterations=9).iterations == 9
    assert config_from_values({"study": {"network": UNET}}).study == unet
    demo = config_from_values({"study": {"network": UNET, "size": 96}}, "demo").study
    assert demo.learning_rate == 2e-3 and demo.size == 96
    assert config_from_values({"study": unet.model_dump()}).study == unet


@pytest.mark.parametrize("values", [{"widths": (8,) * 5}, {"network": UNET, "encoder_rate": 1e-4}])
def test_a_setting_of_another_network_is_refused(values):
    with pytest.raises(ConfigError, match=r"^(widths|encoder_rate) is a setting of another network"):
        StudyConfig(**values)


def test_the_identity_holds_what_a_network_is_and_not_where_it_lies(backbones, own, tmp_path):
    (tmp_path / "moved").symlink_to(backbones / "resnet")
    here, there = (identity_of_study(StudyConfig(network=str(f))) for f in (backbones / "resnet", tmp_path / "moved"))
    assert here == there != identity_of_study(StudyConfig(network=str(backbones / "dinov2")))
    before = identity_of_study(StudyConfig(network=f"{own}:small"))
    source = tmp_path / f"{own}.py"
    source.write_text(source.read_text() + "\n# another version\n")
    digest_of_network.cache_clear()
    assert before != identity_of_study(StudyConfig(network=f"{own}:small"))
    assert identity_of_study(StudyConfig())["network"] == [LITE, digest_of_network(LITE)]


def test_a_study_of_the_users_own_network_is_continued_with_the_same_code_alone(own, tmp_path):
    data = make_dataset(tmp_path / "data")
    config = StudyConfig(
        arms=("real",), network=f"{own}:deep", size=64, iterations=2, batch_size=4, bootstrap=9, workers=1
    )
    run_study(data, tmp_path / "study", [], config)
    shown = read_json(tmp_path / "study" / "study.json")
    assert shown["config"]["network"] == f"{own}:deep" and shown["identity"]["network"][0] == f"{own}:deep"
    assert (
        load_network(config, tmp_path / "study" / "runs" / "real-0.safetensors")(torch.rand(1, 3, 64, 64)).shape[1] == 1
    )
    source = tmp_path / f"{own}.py"
    source.write_text(source.read_text() + "\n# another version\n")
    digest_of_network.cache_clear()
    with pytest.raises(ConfigError, match="made with network"):
        run_study(data, tmp_path / "study", [], config)
    for name, error in ((f"{own}:coarse", StudyError), (f"{own}:none", ConfigError), ("unett", ConfigError)):
        with pytest.raises(error):
            run_study(data, tmp_path / "other", [], config.model_copy(update={"network": name}))
        assert not (tmp_path / "other").exists()


def test_a_part_named_encoder_learns_at_its_own_rate(own, tmp_path):
    def moved(**rates):
        config = StudyConfig(
            network=f"{own}:deep", size=64, iterations=1, batch_size=2, ema=0.0, augmentation=0.0, **rates
        )
        network = build_network(config, 0)
        start = {name: value.clone() for name, value in network.state_dict().items()}
        batches = Batches(Arm("real", read_dataset(tmp_path / "data").annotated("train")), config, 0)
        train(network, batches, config, name="run", files=tmp_path / f"run-{rates['encoder_rate']}")
        return {name: float((value - start[name]).abs().max()) for name, value in network.state_dict().items()}

    make_dataset(tmp_path / "data")
    one, other = (moved(learning_rate=1e-3, encoder_rate=rate) for rate in (1e-3, 1e-4))
    assert other["encoder.weight"] == pytest.approx(0.1 * one["encoder.weight"], rel=0.05)
    assert other["head.weight"] == pytest.approx(one["head.weight"], rel=0.05)


def test_the_key_of_a_run_of_the_small_network_is_that_of_before_there_was_a_choice():
    where = {"data": "d", "annotated": 50, "draw": 0, "seed": 0}
    config = StudyConfig(network=UNET)
    assert "network" not in identity_of_study(config) and "encoder_rate" not in identity_of_study(config)
    assert key_of_run("real", config, {}, where) == "c0d52fbcd22d48c8"
    assert key_of_run("real", StudyConfig(), {}, where) != key_of_run("real", config, {}, where)
