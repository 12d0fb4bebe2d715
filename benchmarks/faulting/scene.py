"""Tiny finished artefacts that faults are tried on, and the commands that make and read them."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

FINDINGS = Path(__file__).parents[2] / "src" / "diffaug" / "conditioning" / "findings"
PHANTOMS = ["--train", "8", "--val", "1", "--test", "3", "--unannotated", "2", "--size", "64"]
FIT = {
    "codec": {"window": 64, "cell": 8, "latent_channels": 4, "width": 32, "blocks": [1, 1], "iterations": 4},
    "denoiser": {"widths": [16, 32], "text_width": 32, "text_layers": 1, "windows_per_case": 2, "iterations": 3},
    "validator": {
        "views_per_case": 1, "folds": 2, "windows_per_case": 4, "iterations": 3, "alpha": 0.4, "delta": 0.2,
        "trajectories": 4, "floor": 0.0,
    },
    "sampler": {"steps": 2},
}  # fmt: skip
GENERATE = {"count": 4, "shard_size": 3, "slots": 3, "workers": 1, "gate": "off"}
STUDY = {
    "network": "unet", "widths": [8, 8, 8, 8, 8], "arms": ["real", "selected"], "iterations": 40, "ema": 0.5,
    "size": 64, "batch_size": 4, "workers": 1, "bootstrap": 20, "pseudo_confidence": 0.0,
}  # fmt: skip
RUN = {
    "preset": "smoke", "out": "out",
    "data": {
        "source": "phantom", "phantoms": [7, 1, 2, 1], "phantom_size": 64, "annotated": [6], "painted_per_real": 2.0,
    },
    "fit": FIT, "generate": {**GENERATE, "count": 2}, "study": {**STUDY, "bootstrap": 10},
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command on tiny inputs.

    Attributes:
        name: What findings call it.
        words: The command without `diffaug`; its working directory holds the inputs.
        inputs: Templates that are copied there.
        points: Kill points of the whole run.
        late: Whether it starts processes, so that it is killed by the clock alone.
    """

    name: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    points: int = 0
    late: bool = False


def options(values: dict[str, object]) -> list[str]:
    """Return settings as options of the command line."""
    words = []
    for name, value in values.items():
        if isinstance(value, dict):
            words += [word.replace("--", f"--{name}.", 1) for word in options(value)]
        else:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _commands() -> dict[str, Command]:
    fit = ["--preset", "smoke", "--from-scratch", *options(FIT)]
    paint, study = ["--preset", "smoke", *options(GENERATE)], ["--preset", "smoke", *options(STUDY)]
    made = {
        "phantom": ("data phantom out", PHANTOMS, "", 20),
        "import": ("data import folder source out", [], "source", 20),
        "import-coco": ("data import coco coco out", [], "coco", 10),
        "subset": ("data subset data out --annotated 3", [], "data", 15),
        "fit": ("fit data out", fit, "data", 45),
        "generate": ("generate model data out", paint, "model data", 45),
        "remove": ("remove model data out", [], "model data", 20),
        "segment": ("segment model data/images out", [], "model data", 15),
        "study": ("study data out --synthetic synthetic", study, "data synthetic", 40),
        "report": ("report study --synthetic synthetic", [], "data study synthetic", 5),
        "predict": ("predict study data/images out --arm real", [], "study data", 15),
        "select": ("select synthetic out --study study", [], "synthetic study data", 15),
        "pseudo-label": ("pseudo-label study out --confidence 0.1", [], "study data", 5),
        "export-nnunet": ("export synthetic out --format nnunet --with data", [], "synthetic data", 8),
        "export-hf": ("export synthetic out --format hf --with data", [], "synthetic data", 6),
        "export-yolo": ("export synthetic out --format yolo --with data", [], "synthetic data", 6),
        "run": ("run run.yaml", [], "run.yaml", 30),
    }
    found = {
        name: Command(name, (*words.split(), *more), tuple(inputs.split()), points)
        for name, (words, more, inputs, points) in made.items()
    }
    several = tuple("2" if word == "1" and before == "--workers" else word for before, word in _pairs(paint))
    found["generate-2"] = Command(
        "generate-2", ("generate", "model", "data", "out", *several), ("model", "data"), 4, True
    )
    return found


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(["", *words], words, strict=False))


COMMANDS = _commands()


def make_scene(folder: Path) -> None:
    """Make all templates in this process, whose children then have everything imported.

    Raises:
        SystemExit: A command failed.
    """
    from diffaug.cli.main import main

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    templates = {"phantom": "data", "fit": "model", "generate": "synthetic", "study": "study", "select": "selected"}
    templates |= {"remove": "removed", "predict": "predicted", "report": "", "segment": "segmented"}
    for name, template in templates.items():
        place = {"out": str(folder / template)} | {each: str(folder / each) for each in COMMANDS[name].inputs}
        words = [_placed(word, place) for word in COMMANDS[name].words]
        main(words)
    for form in ("coco", "yolo", "hf", "nnunet"):
        main(["export", str(folder / "selected"), str(folder / form), "--format", form, "--with", str(folder / "data")])
    write_judged(folder)
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    write_sources(folder)
    pictures = folder / "pictures"
    pictures.mkdir()
    shutil.copy(folder / "source" / "images" / "c0.png", pictures / "a.png")
    shutil.copy(folder / "source" / "images" / "c1.jpg", pictures / "b.jpg")
    shutil.copy(FINDINGS / "generic.yaml", folder / "findings.yaml")


def write_judged(folder: Path) -> None:
    """Write what people and an audit decided about a set, and a study with the tables that a pooled run adds."""
    from diffaug.cli.main import main

    main(["audit", str(folder / "synthetic"), str(folder / "audits"), "--with", str(folder / "data")])
    shutil.copytree(folder / "selected", folder / "reviewed")
    rows = [json.loads(line) for line in (folder / "reviewed" / "manifest.jsonl").read_text().splitlines()]
    said = [("accept", ""), ("reject", "its rim is too sharp"), ("undo", ""), ("accept", "")]
    reviews = [
        {"id": row["request"]["id"], "decision": decision, "who": "reader", "when": "2026-01-02T03:04:05Z", "why": why}
        | {"image": row["image_digest"]}
        for row, (decision, why) in zip([rows[0], rows[1], rows[1], rows[2]], said, strict=True)
    ]
    (folder / "reviewed" / "review.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in reviews))
    charts = shutil.copytree(folder / "study", folder / "charts")
    (charts / "curve.csv").write_text(
        "annotated,arm,draws,n,mean,low,high\n3,real,1,3,0.5,0.4,0.6\n8,real,1,3,0.6,0.5,0.7\n"
    )
    (charts / "costs.csv").write_text(
        "annotated,draw,fold,fit_seconds,requested,stopped,rejected,kept,negatives,generate_seconds\n"
        "8,0,,10.5,6,1,1,4,2,3.5\n"
    )
    (charts / "training.csv").write_text("arm,minutes\nreal,0.5\nselected,0.6\n")


def _placed(word: str, place: dict[str, str]) -> str:
    head, slash, rest = word.partition("/")
    return place.get(head, head) + slash + rest


def write_sources(folder: Path) -> None:
    """Write sources of imports that diffaug does not export: folders, tables, DICOM and NIfTI."""
    rng = np.random.default_rng(0)
    source = folder / "source"
    for kind in ("images", "masks"):
        (source / kind).mkdir(parents=True)
    suffixes = ("png", "jpg", "tif", "bmp", "webp", "jp2", "png", "tiff")
    for number, suffix in enumerate(suffixes):
        pixels, mask = picture(rng), np.zeros((40, 48), np.uint8)
        mask[8:20, 10 : 22 + number] = 255
        Image.fromarray(pixels).save(source / "images" / f"c{number}.{suffix}")
        Image.fromarray(mask).save(source / "masks" / f"c{number}.{'tif' if suffix == 'tif' else 'png'}")
    rows = "".join(f"c{number},p{number // 2}\n" for number in range(len(suffixes)))
    (source / "groups.csv").write_text(f"id,group\n{rows}")
    (source / "classes.json").write_text(json.dumps({"lesion": [255]}))
    table = folder / "table"
    shutil.copytree(source / "images", table / "images")
    shutil.copytree(source / "masks", table / "masks")
    names = [path.name for path in sorted((table / "images").iterdir())]
    masks = [path.name for path in sorted((table / "masks").iterdir())]
    lines = "".join(f"images/{a},masks/{b},train,p{a}\n" for a, b in zip(names, masks, strict=True))
    (table / "cases.csv").write_text(f"image,mask,split,group\n{lines}")
    _write_scans(folder, rng)


def picture(rng: np.random.Generator, height: int = 40, width: int = 48) -> np.ndarray:
    """Return smooth noise, (height, width, 3)."""
    grid = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _write_scans(folder: Path, rng: np.random.Generator) -> None:
    import nibabel
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    for kind in ("dicom/images", "dicom/masks", "nifti/images", "nifti/labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(3):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.PatientID, data.Modality, data.SeriesInstanceUID = f"p{number}", "CT", f"1.2.{number + 1}"
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 40, 48, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept, data.WindowCenter, data.WindowWidth = 1, -1024, 40, 400
        data.PixelSpacing = [0.5, 0.5]
        data.PixelData = (picture(rng)[:, :, 0].astype(np.int16) + 900).tobytes()
        data.save_as(folder / "dicom" / "images" / f"s{number}.dcm")
        mask = np.zeros((40, 48), np.uint8)
        mask[8:20, 10 : 22 + number] = 255
        Image.fromarray(mask).save(folder / "dicom" / "masks" / f"s{number}.png")
        values = np.stack([picture(rng)[:, :, 0] for _ in range(3)], axis=2).astype(np.int16)
        label = np.repeat((mask > 0).astype(np.uint8)[:, :, None], 3, axis=2)
        affine = np.diag([0.8, 0.8, 3.0, 1.0])
        ending = "nii.gz" if number else "nii"
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / "nifti" / "images" / f"v{number}.{ending}")
        nibabel.save(nibabel.Nifti1Image(label, affine), folder / "nifti" / "labels" / f"v{number}.{ending}")
