"""Model folders: those that a fit starts from, found by path or hub name, and those that it seals.

Knows files, not tensors: a folder is checked before any weight is read. A pickle (`.bin`, `.ckpt`) is never opened, and
never downloaded.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from diffaug.artifacts import digest_of_file, digest_of_value, make_folder, read_json, storing, sync_tree, write_json
from diffaug.conditioning.grammar import words_in
from diffaug.conditioning.prompts import all_prompts
from diffaug.errors import DataError, ModelError
from diffaug.names import Inside, without_links
from diffaug.reading import read_typed
from diffaug.runfolder import LOCK, in_use, kind_of

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
FOLDERS = (*STEMS, "tokenizer", "scheduler")
ADDED = ("pytorch_lora_weights.safetensors", "mask_channels.safetensors")  # what a fit adds to a base, where not merged
BASE_FILE = "base.json"  # digests of the base's files
PLACE_FILE = "base_place.json"  # where the base lies; no part of what the model is, so it may be edited
SEAL = "digests.json"  # of a finished model folder
WORDS_FILE = "tokenizer/words.json"  # the words that the text encoder has met in training
PREDICTIONS = ("epsilon", "v_prediction", "sample")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"\w+")
CONFIGS = (
    "model_index.json", "*/*config.json", "*/model_index.json", "*/*.safetensors.index.json", "tokenizer/*.json",
    "tokenizer/*.txt",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A model folder to start from.

    Attributes:
        name: Its absolute path, or its name on the hub.
        revision: Commit of a hub repository; empty for a folder.
        folder: Where its files lie on this machine.
    """

    name: str
    revision: str
    folder: Path

    def digests(self) -> dict[str, str]:
        """Return the digest of every file that shapes what the model does."""
        files = sorted(_shaping_files(self.folder))
        return {path.relative_to(self.folder).as_posix(): digest_of_file(path) for path in files}


def find_checkpoint(name: str | Path) -> Checkpoint:
    """Return a base by its path, or by its hub name from the hub's cache or the network.

    Raises:
        ModelError: It is no usable base: absent, gated, without safetensors, not made for inpainting.
    """
    folder = Path(name)
    if (folder / "model_index.json").is_file():
        if not is_compact_folder(folder) and not (folder / BASE_FILE).is_file():
            check_configs(folder, str(name))
            check_weights(folder, str(name))
        return Checkpoint(str(folder.absolute()), "", folder)
    if folder.exists() or not HUB_NAME.fullmatch(str(name)):
        kind = "is a file; its diffusers-format folder is needed" if folder.is_file() else "has no model_index.json"
        raise ModelError(f"a base must be a model folder or the name of a hub repository: {name} {kind}; check it")
    found = download(str(name))
    return Checkpoint(str(name), found.name, found)


def download(name: str, revision: str = "") -> Path:
    """Return the folder of a hub repository in the hub's cache: configurations first, and weights once these suit.

    Raises:
        ModelError: See `find_checkpoint`.
    """
    folder = _snapshot(name, revision, CONFIGS)
    check_configs(folder, name)
    plain = tuple(f"{part}/{stem}{end}" for part, stem in STEMS.items() for end in (".safetensors", "-*.safetensors"))
    _snapshot(name, folder.name, plain)
    half = tuple(f"{part}/{STEMS[part]}.fp16.safetensors" for part in STEMS if not weights_of(folder / part))
    if half:
        _snapshot(name, folder.name, half)
    check_weights(folder, name)
    return folder


def _snapshot(name: str, revision: str, patterns: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(patterns)))
    except GatedRepoError:
        fix = f"accept its terms at https://huggingface.co/{name}, then run `hf auth login`"
        raise ModelError(f"a gated repository needs your consent: {name} is gated; {fix}") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        at = f" at commit {revision}" if revision else ""
        raise ModelError(
            f"a base must be a model folder or a public hub repository: {name}{at} is neither; check its name"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise ModelError(
            f"a base of the hub must be in its cache or within reach: {name} is not cached whole and {why}; connect "
            "once, or give the path of a folder"
        ) from None
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"a base must be downloaded whole: {name}: {reason}; try again") from None


def _cached(name: str, revision: str) -> Path | None:
    """Return the folder of a commit that lies whole in the hub's cache, so that no network is asked."""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(CONFIGS), local_files_only=True))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        return None
    return folder if all(weights_of(folder / part) for part in STEMS) else None


def check_configs(folder: Path, name: str) -> None:
    """Refuse what is not a Stable Diffusion inpainting checkpoint, by its configurations.

    Raises:
        ModelError: A part is missing, the architecture is another one, the U-Net does not inpaint, or what it predicts
            is unknown.
    """
    for part in FOLDERS:
        if not (folder / part).is_dir():
            raise ModelError(
                f"a Stable Diffusion base holds {', '.join(FOLDERS)}: {name} has no {part}/; use its diffusers format"
            )
    unet, vae = _config(folder / "unet", name), _config(folder / "vae", name)
    for part, values, channel in (("unet", unet, "in_channels"), ("vae", vae, "latent_channels")):
        if type(values.get(channel, 4)) is not int:
            raise ModelError(f"a base says how many channels it has: {part}/ of {name} does not; download it again")
    if (folder / "text_encoder_2").is_dir() or unet.get("addition_embed_type"):
        raise ModelError(f"a base must be Stable Diffusion 1.5 or 2: {name} has a second text encoder; use another")
    plain, channels = 2 * int(vae.get("latent_channels", 4)) + 1, unet.get("in_channels", 4)
    if channels != plain and channels < plain + 3:  # one mask and two numbers of scale at least, where it was merged
        raise ModelError(
            f"a base must be an inpainting U-Net, which takes {plain} channels: that of {name} takes {channels}; "
            "use an inpainting checkpoint"
        )
    schedule = _config(folder / "scheduler", name, "scheduler_config.json")
    predicts = schedule.get("prediction_type", "epsilon")
    if predicts not in PREDICTIONS:
        raise ModelError(
            f"a base must predict one of {', '.join(PREDICTIONS)}: {name} predicts {predicts!r}; use another checkpoint"
        )
    if predicts == "epsilon" and schedule.get("rescale_betas_zero_snr"):
        raise ModelError(
            f"a base that predicts noise needs some signal at every timestep: the last one of {name} has none; "
            "use a base that predicts the velocity"
        )


def check_weights(folder: Path, name: str) -> None:
    """Refuse a checkpoint one of whose networks has no safetensors.

    Raises:
        ModelError: It has pickles alone, which are never opened, or nothing.
    """
    for part in STEMS:
        if not weights_of(folder / part):
            raise ModelError(
                f"only safetensors are loaded, pickles (.bin, .ckpt) never: {name} has none in {part}/; use a "
                "checkpoint that has, or convert it where you trust it"
            )


def weights_of(part: Path) -> list[Path]:
    """Return the safetensors of a network's folder that are loaded: the plain ones, else half precision, else none."""
    stem = STEMS[part.name]
    plain = [path for path in part.glob(f"{stem}*.safetensors") if re.fullmatch(rf"{stem}(-\d+-of-\d+)?", path.stem)]
    return sorted(plain) or sorted(part.glob(f"{stem}.fp16.safetensors"))


def variant_of(part: Path) -> str | None:
    """Return what `from_pretrained` calls the weights of `weights_of`: None, or fp16."""
    return "fp16" if any(path.stem.endswith(".fp16") for path in weights_of(part)) else None


def _config(part: Path, name: str, file: str = "config.json") -> dict[str, Any]:
    try:
        return dict(read_json(part / file))
    except (DataError, TypeError, ValueError):
        raise ModelError(
            f"every part of a base needs its {file}: {part.name}/ of {name} has none; download the base again"
        ) from None


def is_compact_folder(folder: Path) -> bool:
    """Tell whether a model folder is compact, by its codec: an AutoencoderTiny of more than three channels."""
    try:
        config = dict(read_json(folder / "vae" / "config.json"))
    except (DataError, TypeError, ValueError):
        return not (folder / "unet").is_dir() and not (folder / BASE_FILE).is_file()
    return config.get("_class_name") == "AutoencoderTiny" and config.get("in_channels", 3) > 3


def _shaping_files(folder: Path) -> Iterator[Path]:
    """Yield the files that a base's outputs depend on; of a fitted one, what it adds and its own base's digests."""
    if (folder / BASE_FILE).is_file():
        yield from (path for name in (BASE_FILE, *ADDED) if (path := folder / name).is_file())
        return
    for part in STEMS:
        yield from (folder / part / "config.json", *weights_of(folder / part))
    yield folder / "scheduler" / "scheduler_config.json"
    yield from (path for path in (folder / "tokenizer").iterdir() if path.name != "words.json")


def write_reference(folder: Path, base: Checkpoint) -> None:
    """Write which base a model adds to: the digests of its files, and beside these the place where it lies."""
    write_json(folder / BASE_FILE, {"files": base.digests()})
    write_json(folder / PLACE_FILE, {"name": base.name, "revision": base.revision})


def read_reference(folder: Path) -> Checkpoint:
    """Return the base that a model adds to.

    Raises:
        ModelError: It lies there no more.
    """
    try:
        place = read_typed(folder / PLACE_FILE, dict[str, str])
        name, revision = place["name"], place["revision"]
        if revision and not (HUB_NAME.fullmatch(name) and COMMIT.fullmatch(revision)):
            raise DataError("it names no commit of a hub repository")
    except (DataError, KeyError):
        raise ModelError(
            f"a tuned model says where its base lies: {folder / PLACE_FILE} does not; fit it again"
        ) from None
    if revision:
        return Checkpoint(name, revision, _cached(name, revision) or download(name, revision))
    if not (Path(name) / "model_index.json").is_file():
        raise ModelError(
            f"a tuned model needs its base: {name} is gone; put it back, or write its place into {folder / PLACE_FILE}"
        )
    return Checkpoint(name, "", Path(name))


def verify_base(folder: Path, above: frozenset[Path] = frozenset()) -> None:
    """Check the files of the base that a model adds to, if it adds to one.

    Args:
        folder: Of the model.
        above: Folders of the models whose base it is.

    Raises:
        ModelError: The base is gone, one of its files is missing or another one, or it is its own base.
    """
    if not (folder / BASE_FILE).is_file():
        return
    above |= {folder.resolve()}
    base, digests = read_reference(folder), read_typed(folder / BASE_FILE, dict[str, dict[str, str]]).get("files", {})
    place = Inside(base.folder)
    for name, digest in digests.items():
        place.path(name, f"a file of {BASE_FILE}")
        if not (base.folder / name).is_file() or digest_of_file(base.folder / name) != digest:
            raise ModelError(
                f"a tuned model needs the base it was fitted on: {base.folder / name} is missing or another file; put "
                "it back, or fit again"
            )
    if base.folder.resolve() in above:
        raise ModelError(
            f"a tuned model needs a base beside itself: {folder / PLACE_FILE} leads back to {base.folder}; write the "
            "place of the base into it"
        )
    verify_base(base.folder, above)


def write_words(folder: Path, words: Iterable[str]) -> None:
    """Write the words of a model's training prompts into its folder, before the folder is sealed."""
    make_folder((folder / WORDS_FILE).parent)
    write_json(folder / WORDS_FILE, sorted(words))


def read_words(folder: Path) -> frozenset[str]:
    """Return the words of a model's training prompts; those of measured attributes where it has no list of its own."""
    if not (folder / WORDS_FILE).is_file():
        return frozenset().union(*(words_in(prompt) for prompt in all_prompts()))
    return frozenset(read_typed(folder / WORDS_FILE, list[str], "fit the model again"))


def seal(folder: Path) -> str:
    """Write `digests.json` over a finished model folder, last of all, and return the model digest.

    Training logs (`training/`), half-written files of a killed run and the place of a base do not count: they do not
    change what the model does.
    """
    apart = (SEAL, PLACE_FILE, LOCK)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in apart)
    kept = [path for path in files if path.relative_to(folder).parts[0] != "training" and path.suffix != ".partial"]
    digests = {path.relative_to(folder).as_posix(): digest_of_file(path) for path in kept}
    with storing(folder):
        sync_tree(folder)
    write_json(folder / SEAL, digests)
    return digest_of_value(digests)


def check_model(folder: Path) -> None:
    """Refuse a folder that is no finished model, without reading its files.

    Raises:
        ModelError: The folder is not there, holds something else, or its fit has not finished.
    """
    kind = kind_of(folder)
    if kind and not kind.endswith("model"):
        fix = "check the path, or run `diffaug fit`" if not folder.exists() else "name the model; it comes first"
        raise ModelError(f"a model is a folder made by `diffaug fit`: {folder} {kind}; {fix}")
    if not (folder / SEAL).is_file():
        raise _unfinished(folder)


def _unfinished(folder: Path) -> ModelError:
    """Return the error of a model folder without digests."""
    rule = "a model can be used when its fit has finished"
    if in_use(folder):
        return ModelError(f"{rule}: `diffaug fit` is still working in {folder}; wait until it has finished")
    if kind_of(folder):
        return ModelError(f"{rule}: that of {folder} was stopped; run the same `diffaug fit` again, which continues it")
    return ModelError(f"{rule}: {folder} has no {SEAL}; check the path, or run `diffaug fit`")


def verify(folder: Path) -> str:
    """Check a model folder against its `digests.json`, and the base that it adds to; return the model digest.

    Raises:
        ModelError: The folder is unfinished, or a file is missing or altered.
    """
    check_model(folder)
    without_links(folder)
    try:
        digests = read_typed(folder / SEAL, dict[str, str])
    except DataError:
        digests = {}
    if not digests:
        raise ModelError(
            f"a finished model has digests of its files: {folder / SEAL} is damaged; restore it, or remove it and run "
            "the same `diffaug fit` again"
        )
    place, again = Inside(folder), f"restore it, or remove {folder} and fit again"
    for name, digest in digests.items():
        place.path(name, "a file of digests.json")
        if not (folder / name).is_file():
            raise ModelError(f"every file of a model must be there: {folder / name} is missing; {again}")
        if digest_of_file(folder / name) != digest:
            raise ModelError(f"a model's files must be as they were fitted: {folder / name} was altered; {again}")
    verify_base(folder)
    return digest_of_value(digests)
