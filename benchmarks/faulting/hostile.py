"""Hostile files through every reader: the doors, what is put into each, and what becomes of it."""

import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulting.children import Ended, run_command
from faulting.lanes import Found, Lane
from faulting.mutations import mutated
from faulting.nasty import nasty_files
from faulting.scene import COMMANDS

MODEL_FILES = (
    "model_index.json json", "calibration.json json", "fit.json json", "rules.json json", "sampler.json json",
    "scheduler/scheduler_config.json json", "text_encoder/config.json json", "tokenizer/tokenizer.json json",
    "tokenizer/tokenizer_config.json json", "tokenizer/words.json json", "unet/config.json json",
    "vae/config.json json", "seen_images.npz npz",
    "text_encoder/model.safetensors safetensors",
    "unet/diffusion_pytorch_model.safetensors safetensors", "vae/diffusion_pytorch_model.safetensors safetensors",
    "validator/0/model.safetensors safetensors",
)  # fmt: skip
STUDY_FILES = (
    "study.json json", "summary.json json", "profiles.json json", "base_seen.json json", "duplicates.json json",
    "places.json json", "cases.csv csv", "scores.jsonl jsonl", "runs/real-0.jsonl jsonl", "runs/real-0.pool.json json",
    "runs/real-0.log.jsonl jsonl", "runs/real-0.safetensors safetensors",
    "predictions/real-0/00000.png png",
)  # fmt: skip
SET_FILES = (
    "manifest.jsonl jsonl", "summary.json json", "config.json json", "provenance.json json", "cases.csv csv",
    "seen_images.npz npz",
)  # fmt: skip
SOURCE_FILES = (
    "images/c0.png png", "images/c1.jpg picture", "images/c2.tif tiff", "images/c3.bmp picture",
    "images/c4.webp picture", "images/c5.jp2 picture", "masks/c0.png png", "masks/c2.tif tiff", "groups.csv csv",
    "classes.json json",
)  # fmt: skip
IMPORTS = (  # words of the import, hostile file, format
    ("csv table", "table/cases.csv", "csv"), ("coco coco", "coco/annotations/instances_train.json", "json"),
    ("yolo yolo", "yolo/data.yaml", "yaml"), ("yolo yolo", "yolo/labels/train/train-0.txt", "text"),
    ("hf hf", "hf/train/metadata.csv", "csv"), ("hf hf", "hf/train/metadata.jsonl", "jsonl"),
    ("nnunet nnunet", "nnunet/dataset.json", "json"),
    ("dicom dicom", "dicom/images/s0.dcm", "dicom"), ("dicom dicom", "dicom/images/s1.dcm", "dicom"),
    ("nifti nifti", "nifti/images/v0.nii", "nifti"), ("nifti nifti", "nifti/labels/v0.nii", "nifti"),
    ("nifti nifti", "nifti/images/v1.nii.gz", "niigz"),
)  # fmt: skip
FOREIGN = (
    "data/",
    "model/",
    "synthetic/",
    "study/",
    "charts/",
    "reviewed/",
    "audits/",
    "removed/",
)  # where no link may lead out; a user's own images may be links
SHARE_OF_QUICK = 40  # hostile files of a quick run


@dataclass(frozen=True)
class Door:
    """A file that a command reads.

    Attributes:
        name: What findings call it.
        words: The command.
        inputs: Templates of its working directory.
        target: The hostile file.
        kind: Its format; see `mutations.mutated`.
        weight: How often it is tried, in comparison.
        seal: Whether the digests of the model are written anew, so that the file is reached.
        without: Files that are removed, so that the command goes on from a killed run.
    """

    name: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    target: str
    kind: str
    weight: float = 1.0
    seal: bool = False
    without: tuple[str, ...] = ()


def _doors() -> list[Door]:
    doors: list[Door] = []

    def add(words: str, inputs: str, target: str, kind: str, weight: float, **how: Any) -> None:
        command = "-".join(words.split()[: 3 if words.startswith("data import") else 2]).replace("/", "-")
        more = how.pop("more", ())
        name = f"{command}-{target.replace('/', '+')}"
        doors.append(Door(name, (*words.split(), *more), tuple(inputs.split()), target, kind, weight, **how))

    for name, kind in _listed(SOURCE_FILES):
        add("data import folder source out", "source", f"source/{name}", kind, 2.0)
    for words, target, kind in IMPORTS:
        add(f"data import {words} out", target.split("/")[0], target, kind, 2.5)
    for name, kind in _listed(("cases.csv csv", "images/train-0.png png", "masks/train-0.png png")):
        add("data inspect data", "data", f"data/{name}", kind, 2.0)
    add("data subset data out --annotated 3", "data", "data/cases.csv", "csv", 1.0)
    add("run run.yaml --dry-run", "run.yaml", "run.yaml", "yaml", 3.0)
    add("prompts --findings findings.yaml", "findings.yaml", "findings.yaml", "yaml", 3.0)
    paint, study = COMMANDS["generate"].words[4:], COMMANDS["study"].words[5:]
    for name, kind in _listed(MODEL_FILES):
        add("segment model data/images out", "model data", f"model/{name}", kind, 0.25, seal=True)
        add("generate model data out", "model data", f"model/{name}", kind, 0.15, more=paint, seal=True)
    add("segment model data/images out", "model data", "model/digests.json", "json", 0.5)
    add("fit data model", "data model", "model/training/summary.json", "json", 0.5, more=COMMANDS["fit"].words[3:])
    add("fit data model", "data model", "model/training/digests.json", "json", 0.2, more=COMMANDS["fit"].words[3:])
    add("fit data model", "data model", "model/fit.json", "json", 0.5, more=COMMANDS["fit"].words[3:])
    for name, kind in _listed(SET_FILES):
        target = f"synthetic/{name}"
        add("export synthetic out", "synthetic data", target, kind, 1.0, more=("--format", "folder", "--with", "data"))
        add("select synthetic out --study study", "synthetic data study", target, kind, 0.7)
        add("report study --synthetic synthetic --to out.html", "study synthetic data", target, kind, 0.1)
        add("study data out --synthetic synthetic", "synthetic data", target, kind, 0.15, more=study)
    again = "study data study --synthetic synthetic"
    for name, kind in _listed(STUDY_FILES):
        target = f"study/{name}"
        add("predict study data/images out --arm real", "study data", target, kind, 0.4)
        add("report study --to out.html", "study data", target, kind, 0.15)
        add("select synthetic out --study study", "synthetic data study", target, kind, 0.4)
        add(again, "study data synthetic", target, kind, 0.3, more=study, without=("study/summary.json",))
    ended = ("synthetic/summary.json", "synthetic/manifest.jsonl", "synthetic/cases.csv")
    for name, kind in _listed(("rows.jsonl jsonl", "digests.json json", "seconds.json json")):
        target = f"synthetic/shards/00000/{name}"
        add("generate model data synthetic", "model data synthetic", target, kind, 0.3, more=paint, without=ended)
    begun = ("study/runs/real-0.safetensors", "study/runs/real-0.jsonl", "study/summary.json")
    target = "study/runs/real-0.checkpoint"
    add(again, "study data synthetic", target, "safetensors", 0.6, more=study, without=begun)
    for name, kind in _listed(("a.png png", "b.jpg picture")):
        add("predict study pictures out --arm real", "study pictures data", f"pictures/{name}", kind, 1.5)
        add("segment model pictures out", "model pictures data", f"pictures/{name}", kind, 0.8)
    _add_judgements(add)
    return doors


def _add_judgements(add: Callable[..., None]) -> None:
    """Add what says where pictures are from, what was decided about them, and what a page shows."""
    picture = "synthetic/shards/00000/images/synth-00000.png"
    add(f"explain {picture}", "synthetic", picture, "origin", 0.6)
    add(f"reproduce {picture} --model model --data data", "synthetic model data", picture, "origin", 0.6)
    add("explain pictures/a.png --in synthetic", "synthetic pictures", picture, "origin", 0.3)
    for name, kind in _listed(("config.json json", "manifest.jsonl jsonl", "provenance.json json")):
        add(f"explain {picture.replace('images', 'masks')}", "synthetic", f"synthetic/{name}", kind, 0.3)
    add("export reviewed out --format folder", "reviewed", "reviewed/review.jsonl", "jsonl", 0.6)
    words = "export synthetic out --format folder --without-copies audits"
    add(words, "synthetic audits", "audits/copies.json", "json", 0.6)
    for name, kind in _listed(SET_FILES):
        add("audit synthetic out --with data", "synthetic data", f"synthetic/{name}", kind, 0.1)
    for name, kind in _listed(("summary.json json", "summary.csv csv", "study.json json")):
        add("audit synthetic out --study study", "synthetic study", f"study/{name}", kind, 0.2)
    for name, kind in _listed(
        ("summary.csv csv", "curve.csv csv", "costs.csv csv", "training.csv csv", "leaks.json json")
    ):
        add("report charts --to out.html", "charts", f"charts/{name}", kind, 0.2)
    for name, kind in _listed(("study.json json", "places.json json", "runs/real-0.safetensors safetensors")):
        add("pseudo-label study out --confidence 0.1", "study data", f"study/{name}", kind, 0.15)
    ended = ("removed/summary.json", "removed/manifest.jsonl", "removed/cases.csv")
    for name, kind in _listed(("config.json json", "rows/train-0.json json", "images/train-0-removed.png origin")):
        add("remove model data removed", "model data removed", f"removed/{name}", kind, 0.2, without=ended)


def _listed(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return names of files with their formats."""
    return [(line.split()[0], line.split()[1]) for line in lines]


DOORS = {door.name: door for door in _doors()}


def hostile_trials(count: int, seed: int) -> list[str]:
    """Return names of about so many hostile files: those written by hand for each door, then mutations.

    Mutations are shared by weight, and in an order in which any part of them has all doors.
    """
    rng = random.Random(seed)
    doors = list(DOORS.values())
    names = [
        f"hostile:{door.name}:nasty:{name}"
        for door in doors
        for name in nasty_files(door.kind)
        if (name != "canary link" or (door.target.startswith(FOREIGN) and door.target not in door.words))
        and rng.random() < 2 * door.weight  # few where a command takes seconds
    ]
    if len(names) > count:
        return rng.sample(names, count)
    rest = count - len(names)
    total = sum(door.weight for door in doors)
    done = 0.0
    for door in doors:
        start, done = round(done), done + rest * door.weight / total
        names += [f"hostile:{door.name}:seed:{seed * 1_000_000 + number}" for number in range(round(done) - start)]
    return names


def try_hostile(name: str, lane: Lane) -> Found:
    """Put a hostile file into its place and run what reads it."""
    _, word, how, which = name.split(":", 3)
    door, found = DOORS[word], Found(name)
    lane.lay_out(*door.inputs)
    target = lane.case / door.target
    old = _valid(target)
    clear_file(target)
    if how == "seed":
        data = mutated(door.kind, old, int(which))
        target.write_bytes(data.replace(b"@CANARY@", bytes(lane.canary)))
    elif how == "nasty":
        nasty_files(door.kind)[which](target, old)
    else:
        target.write_bytes(Path(which).read_bytes())
    for other in door.without:
        clear_file(lane.case / other)
    if door.seal:
        _seal(lane.case / "model")
    lane.watch.events()
    before = _outside(lane)
    _judge(found.take(run_command(door.words, lane.case, bounded=True)), found)
    for touched in lane.watch.events():
        found.add("outside", f"opened {touched}")
    if _outside(lane) != before:
        found.add("outside", f"changed {sorted(_outside(lane) ^ before)}")
    return found


def _judge(ended: Ended, found: Found) -> None:
    kinds = {"hang": "hangs", "memory": "memory", "outside": "outside", "traceback": "tracebacks"}
    if ended.flaw:
        text = " | ".join(ended.outside) if ended.flaw == "outside" else ended.said
        found.add(kinds[ended.flaw], f"status {ended.status}: {text[-350:]}")


def _valid(target: Path) -> bytes:
    """Return the bytes that stand at the place of a hostile file, or of another of its kind."""
    if target.exists():
        return target.read_bytes()
    twin = next(iter(sorted(target.parent.glob(f"*{target.suffix}"))), None)
    weights = target.with_suffix(".safetensors")
    return twin.read_bytes() if twin else weights.read_bytes() if weights.exists() else b""


def clear_file(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _seal(model: Path) -> None:
    """Write the digests of a model anew for files that are plain files."""
    from diffaug.artifacts import digest_of_file

    listed = json.loads((model / "digests.json").read_text())
    plain = [name for name in listed if (model / name).is_file() and not (model / name).is_symlink()]
    small = [name for name in plain if (model / name).stat().st_size < 2**28]
    fresh = listed | {name: digest_of_file(model / name) for name in small}
    (model / "digests.json").write_text(json.dumps(fresh))


def _outside(lane: Lane) -> frozenset[tuple[str, int, int]]:
    """Return what lies beside the working directory, with sizes and times of change."""
    found = [path for place in (lane.folder, lane.canary) for path in place.iterdir() if path != lane.case]
    return frozenset((path.name, path.lstat().st_size, path.lstat().st_mtime_ns) for path in found)


def corpus_trials(corpus: Path) -> list[str]:
    """Return a trial for each file of a folder and each door that reads files of its name, or else of its kind."""
    names = []
    for path in sorted(corpus.rglob("*")):
        if not path.is_file():
            continue
        doors = [door for door in DOORS.values() if Path(door.target).name == path.name]
        doors = doors or [door for door in DOORS.values() if _ending(door.target) == _ending(path.name)]
        names += [f"hostile:{door.name}:corpus:{path.absolute()}" for door in doors]
    return names


def _ending(name: str) -> str:
    return re.sub(r".*?((\.nii)?\.[a-z0-9]+)$", r"\1", name.lower())
