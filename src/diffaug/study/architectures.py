"""The segmentation networks that a study can train: what `study.network` names, and what each is made of.

A network turns images (B, 3, S, S) in [0, 1] into logits (B, K, S, S), one channel a class. Its name is

    efficientnet-lite0        the encoder that comes with the package, trained on ImageNet, and a U-Net decoder
    unet                      a small U-Net from random weights
    PATH or OWNER/NAME        a backbone of transformers, in a folder or on the hub, and the same decoder
    package.module:function   the user's own: called with K, returns a torch.nn.Module

Knows no cases, batches or files of a study. Legend: B batch, C channels, K classes, S side of the square in px; the
stride of a map is S over its side.
"""

import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffaug.artifacts import digest_of_bytes, digest_of_file, digest_of_value
from diffaug.config import LITE, UNET, StudyConfig
from diffaug.decoder import EncoderDecoder
from diffaug.encoder import CHANNELS, STRIDES, encoder_digest, load_trunk
from diffaug.errors import ConfigError, StudyError
from diffaug.knobs import identity_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CELL = 4  # px; squares of so many pixels become channels before the first layer of `unet`
MISSING = 0.1  # share of a backbone's weights that may be random, such as norms that only backbones have
BACKBONE = "backbone"  # what a file of weights says of a backbone: its configuration
Norm = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that images are standardised by


def build(config: StudyConfig, classes: int = 1, about: Mapping[str, str] | None = None) -> nn.Module:
    """Return a network with the weights that its training starts from; random ones are torch's next.

    Args:
        config: Names it; `size` and `widths` count, too.
        classes: K.
        about: What `about` said of a network whose weights are loaded next; a backbone is then made without its own.

    Raises:
        ConfigError: No network has this name, or it cannot be loaded.
        StudyError: The user's function failed.
    """
    if config.network == UNET:
        return small_unet(config.widths, classes)
    if config.network == LITE:
        return EncoderDecoder(load_trunk(), CHANNELS, STRIDES, classes)
    if is_function(config.network):
        return _called(config.network, classes)
    model, norm = _pretrained(config.network) if about is None else _empty(about[BACKBONE])
    backbone = Backbone(model, *norm)
    channels, strides = _measured(backbone, config)
    return EncoderDecoder(backbone, channels, strides, classes)


def about(network: nn.Module) -> dict[str, str]:
    """Return what must be kept beside a network's weights, so that it can be built without its base."""
    encoder = getattr(network, "encoder", None)
    return {BACKBONE: encoder.description()} if isinstance(encoder, Backbone) else {}


def identity_of_study(config: StudyConfig) -> dict[str, Any]:
    """Return the knobs of a study that results depend on: of its network's own, and with the digest of what it is.

    That is the digest of the weights a training starts from, or of the file that defines the user's function; what else
    that file imports is not in it.
    """
    knobs = identity_of(config)
    if config.network == UNET:  # as before there was a choice, so that what was recorded stays known
        return {name: value for name, value in knobs.items() if name not in ("network", "encoder_rate")}
    del knobs["widths"]
    return knobs | {"network": [_place_free(config.network), digest_of_network(config.network)]}


def _place_free(name: str) -> str:
    """Return a network's name without its place: the folder of a backbone may be moved."""
    return BACKBONE if Path(name).is_dir() else name


def check_network(config: StudyConfig, classes: int) -> None:
    """Refuse a network that cannot be trained, before anything is written: it is built and sees two images.

    Raises:
        ConfigError: No network has this name, or it cannot be loaded.
        StudyError: The user's function failed, or what it returns is no module of the right shape.
    """
    check_name(config.network)
    if config.network in (UNET, LITE):
        return
    from diffaug.compute.seeds import seeded

    with seeded(0):
        network = build(config, classes)
    wanted, name = (2, classes, config.size, config.size), config.network
    try:
        with torch.no_grad():
            found = network.eval()(torch.zeros(2, 3, config.size, config.size))
    except Exception as error:
        raise StudyError(
            f"a network must take images of (B, 3, {config.size}, {config.size}): {name} does not: {_line(error)}; "
            "change study.size, or the network"
        ) from None
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != wanted:
        raise StudyError(
            f"a network must turn (B, 3, S, S) into logits (B, K, S, S), which are {wanted} here: {name} returns "
            f"{shape}; change it, or name another network"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise StudyError(f"a network must have something to train: {name} has no parameter that needs a gradient")


def check_name(name: str) -> None:
    """Refuse a name that no network can have.

    Raises:
        ConfigError: It is no known network, no folder, no hub name and no function.
    """
    if name in (UNET, LITE) or is_function(name) or (name and Path(name).is_dir()) or name.count("/") == 1:
        return
    raise ConfigError(
        f"a network must be {LITE}, {UNET}, the folder or the hub name (OWNER/NAME) of a transformers backbone, or "
        f"package.module:function: study.network is {name!r}; check its name"
    )


def is_function(name: str) -> bool:
    """Tell whether a name is that of the user's own function."""
    return ":" in name and not Path(name).is_dir()


@cache
def digest_of_network(name: str) -> str:
    """Return the digest of what a training starts from: weights, or the source of the user's function."""
    if name == LITE:
        return encoder_digest()
    if is_function(name):
        return digest_of_file(Path(inspect.getfile(_function(name))))
    model, norm = _pretrained(name)
    values = {key: digest_of_bytes(_bytes(value)) for key, value in model.state_dict().items()}
    return digest_of_value([_described(model), norm, values])


def _bytes(value: Tensor) -> bytes:
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# --- The small U-Net --------------------------------------------------------------------------------------------------


def small_unet(widths: Sequence[int], classes: int) -> nn.Module:
    """Return a U-Net with batch normalisation between space-to-depth and depth-to-space, with random weights.

    No layer runs at full resolution, so that it learns more in a minute of one core than any of the finer networks from
    random weights that were tried.

    Source: Falk et al. 2019, "U-Net: deep learning for cell counting, detection, and morphometry", as built by MONAI;
    the start of the last layer is that of Aitken et al. 2017 (arXiv:1707.02937).
    """
    from monai.networks.nets import BasicUNet

    unet = BasicUNet(
        spatial_dims=2,
        in_channels=3 * CELL**2,
        out_channels=classes * CELL**2,
        features=(*widths, widths[0]),
        norm="batch",
        act="relu",
    )
    with torch.no_grad():  # the pixels of a cell start alike, or a young network would draw a checkerboard
        for parameter in unet.final_conv.parameters():
            parameter.copy_(parameter[:: CELL**2].repeat_interleave(CELL**2, 0))
    return nn.Sequential(nn.PixelUnshuffle(CELL), unet, nn.PixelShuffle(CELL))


# --- A backbone of transformers ---------------------------------------------------------------------------------------


class Backbone(nn.Module):
    """A backbone of transformers as an encoder: images in [0, 1], standardised as its base was trained.

    Args:
        model: Of `AutoBackbone`, or of `AutoModel` with feature maps among its hidden states, such as SegFormer's.
        mean: Of each channel.
        deviation: Of each channel.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: "PreTrainedModel", mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the last feature map of each size, finest first: (B, C, h, w)."""
        found = self.model((images - self.mean) / self.deviation, output_hidden_states=True)
        maps = found.feature_maps if hasattr(found, "feature_maps") else found.hidden_states
        by_size = {one.shape[2:]: one for one in maps if one.dim() == 4}
        return sorted(by_size.values(), key=lambda one: -one.shape[2])

    def description(self) -> str:
        """Return the configuration as JSON, from which the backbone is made without its weights."""
        return json.dumps(_described(self.model), sort_keys=True)


def _described(model: "PreTrainedModel") -> dict[str, Any]:
    """Return the configuration of a model without where it came from."""
    values: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {name: value for name, value in values.items() if name not in ("_name_or_path", "transformers_version")}


def _measured(backbone: Backbone, config: StudyConfig) -> tuple[list[int], list[int]]:
    """Return channels and strides of a backbone's maps, found with an image of the study's size.

    Raises:
        StudyError: It does not take such an image, or hands out no map.
    """
    try:
        with torch.no_grad():
            maps = backbone.eval().maps(torch.zeros(1, 3, config.size, config.size))
    except Exception as error:
        raise StudyError(
            f"a backbone must take images of the study's size: {config.network} does not take {config.size} px: "
            f"{_line(error)}; change study.size, or name another backbone"
        ) from None
    if not maps or maps[-1].shape[2] * 2 > config.size:
        raise StudyError(
            f"a backbone must hand out feature maps (B, C, h, w): {config.network} hands out none that is coarser than "
            "the image; name one that transformers' AutoBackbone knows"
        )
    backbone.train()
    strides = [2 ** round(math.log2(config.size / one.shape[2])) for one in maps]
    return [one.shape[1] for one in maps], strides


def _pretrained(name: str) -> tuple["PreTrainedModel", Norm]:
    """Return a backbone with its weights, and what its images are standardised by.

    Raises:
        ConfigError: There is none of this name, it is not cached and the hub cannot be reached, or it is damaged.
    """
    from huggingface_hub import constants
    from transformers import AutoConfig

    from diffaug.models.base import quiet_libraries

    try:
        with quiet_libraries():
            config = _with_all_stages(AutoConfig.from_pretrained(name))
            options = {"config": config, "dtype": torch.float32, "output_loading_info": True}
            model, info = _class_of(config).from_pretrained(name, **options)
    except Exception as error:
        if Path(name).is_dir():
            fix = "the folder needs config.json and model.safetensors of a backbone that transformers knows"
        elif constants.HF_HUB_OFFLINE:
            fix = "HF_HUB_OFFLINE is set: connect once, or give the path of a folder"
        else:
            fix = "check its name and the connection, or give the path of a folder"
        raise ConfigError(f"a backbone must load: study.network is {name}: {_line(error)}; {fix}") from None
    sizes = {key: value.numel() for key, value in model.state_dict().items()}
    missing = sum(sizes.get(key, 0) for key in info["missing_keys"])
    if missing > MISSING * sum(sizes.values()):
        raise ConfigError(
            f"a backbone must bring its weights: {name} lacks {missing / sum(sizes.values()):.0%} of them; take another"
        )
    return model, _norm_of(name)


def _class_of(config: "PreTrainedConfig") -> Any:
    """Return the class whose model of this configuration hands out feature maps: AutoBackbone's, or else AutoModel's.

    `AutoBackbone.from_pretrained` itself asks the hub even for a folder.
    """
    from transformers import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING

    kind = type(config)
    return MODEL_FOR_BACKBONE_MAPPING[kind] if kind in MODEL_FOR_BACKBONE_MAPPING else MODEL_MAPPING[kind]


def _with_all_stages(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Ask a backbone for the map of every stage; by default it hands out the last one alone."""
    if getattr(config, "stage_names", None):
        config.out_features = list(config.stage_names)
    return config


def _norm_of(name: str) -> Norm:
    """Return mean and deviation that images are standardised by: of preprocessor_config.json, or ImageNet's."""
    from transformers.utils import cached_file

    try:
        found = json.loads(Path(cached_file(name, "preprocessor_config.json")).read_text(encoding="utf-8"))
        mean, deviation = (tuple(map(float, found[part])) for part in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError):
        return IMAGENET
    return (mean, deviation) if len(mean) == len(deviation) == 3 else IMAGENET


def _empty(description: str) -> tuple["PreTrainedModel", Norm]:
    """Return a backbone of a configuration; its weights are loaded next.

    Raises:
        StudyError: The configuration is of no backbone that this version of transformers knows.
    """
    from transformers import AutoConfig

    try:
        values = json.loads(description)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        return _class_of(config)(_with_all_stages(config)), IMAGENET
    except Exception as error:
        raise StudyError(
            f"weights of a backbone must say what it is: {_line(error)}; use the versions that study.json names"
        ) from None


# --- The user's own ---------------------------------------------------------------------------------------------------


def _function(name: str) -> Callable[[int], nn.Module]:
    """Import package.module:function; the working directory is searched after the installed packages.

    Raises:
        ConfigError: The module cannot be imported, or has no such function.
    """
    module, _, function = name.partition(":")
    here = os.getcwd()  # noqa: PTH109 # as sys.path holds it
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), function)
        inspect.getfile(found)
    except Exception as error:
        raise ConfigError(
            f"a network's function must be importable: study.network is {name}: {_line(error)}; check the name, which "
            "is package.module:function, and PYTHONPATH"
        ) from None
    return found  # type: ignore[no-any-return] # what it is shows when it is called


def _called(name: str, classes: int) -> nn.Module:
    function = _function(name)
    try:
        network = function(classes)
    except Exception as error:
        raise StudyError(
            f"a network's function is called with the number of classes: {name}({classes}) failed: {_line(error)}; "
            "change it"
        ) from None
    if not isinstance(network, nn.Module):
        raise StudyError(
            f"a network's function returns a torch.nn.Module: {name}({classes}) returns {type(network).__name__}; "
            "change it"
        )
    return network


def _line(error: Exception) -> str:
    """Return an error of other people's code as part of one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
