"""DICOM and NIfTI as tiny trees: masks, windows, groups, spacing; and files that cannot be read."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import box, imported, picture, put, refused

from diffaug.data.depths import PERCENTILES, percentile_limits
from diffaug.data.sources import nifti
from diffaug.data.sources.nifti import read_volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")


def grey(seed: int) -> np.ndarray:
    """Return values of 12 bits, shape (H, W), that start below zero in Hounsfield units."""
    return picture(seed)[:, :, 0].astype(np.uint16) * 15


def dicom(path: Path, values: np.ndarray, syntax: str = "", **elements: Any) -> Path:
    """Write a DICOM file of grey values, (H, W) or (frames, H, W), or of colours, (H, W, 3)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    colour = values.ndim == 3 and values.shape[-1] == 3
    shape = values.shape[:2] if colour else values.shape[-2:]
    data.Modality = "OT"
    data.Rows, data.Columns = shape
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    data.BitsAllocated = data.BitsStored = values.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.PixelData = values.tobytes()
    if syntax:
        from pydicom.encaps import encapsulate

        data.PixelData = encapsulate([b"\xff\xd8\xff\xe0" + bytes(60)])
        data["PixelData"].VR = "OB"
    for name, value in elements.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.rint((values.astype(float) - low) * 255 / (high - low)), 0, 255).astype(np.uint8)


def write_dicom(source: Path, **elements: Any) -> Path:
    for index in range(4):
        own = {"PatientID": f"Miller^{index // 2}", "PixelSpacing": [0.5, 0.25], **elements}
        dicom(source / f"images/IM{index}.dcm", grey(index), RescaleSlope=1, RescaleIntercept=-1024, **own)
        put(source / f"masks/IM{index}.png", box(3, 4, 12 + index, 20, 255))
    return source


def test_dicom_images_are_read_with_patients_and_spacing(tmp_path: Path) -> None:
    data, notices = imported("dicom", write_dicom(tmp_path / "source"), tmp_path / "data")
    assert {case.id: case.group for case in data} == {
        "IM0": "patient-1", "IM1": "patient-1", "IM2": "patient-2", "IM3": "patient-2"
    }  # fmt: skip
    values = grey(1).astype(float) - 1024
    low, high = np.percentile(values, (0.5, 99.5))
    assert np.array_equal(data["IM1"].read_image()[:, :, 1], scaled(values, low, high))
    assert np.array_equal(data["IM1"].read_mask(), box(3, 4, 13, 20) > 0)
    assert data["IM1"].attributes == {"spacing_x": 0.25, "spacing_y": 0.5}
    assert any("each from its 0.5th to its 99.5th percentile" in notice for notice in notices)
    for path in data.folder.rglob("*"):
        assert not path.is_file() or b"Miller" not in path.read_bytes()


def test_dicom_images_without_a_mask_can_be_unannotated(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "source")
    (source / "masks/IM0.png").unlink()
    assert "add --missing-masks unannotated" in refused("dicom", source, tmp_path / "data", split="100:0:0")
    data, notices = imported("dicom", source, tmp_path / "data", split="100:0:0", missing_masks="unannotated")
    assert [(case.id, case.group, case.mask) for case in data.split("unannotated")] == [("IM0", "patient-1", None)]
    assert "1 image has no mask and became unannotated" in notices and len(data.split("train")) == 3


def test_the_users_window_comes_before_that_of_the_file(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "source", WindowCenter=100, WindowWidth=401)
    data, notices = imported("dicom", source, tmp_path / "data")
    values = grey(2).astype(float) - 1024
    assert np.array_equal(data["IM2"].read_image()[:, :, 0], scaled(values, -100.5, 299.5))
    assert "4 images were cut to the window that their file declares and scaled to 8 bits" in notices
    data, notices = imported("dicom", source, tmp_path / "other", window=(40.0, 400.0))
    assert np.array_equal(data["IM2"].read_image()[:, :, 0], scaled(values, -160, 240))
    assert any("cut to the window 40,400" in notice for notice in notices)


def test_white_and_black_are_swapped_where_the_file_says_so(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "source", PhotometricInterpretation="MONOCHROME1")
    data, _ = imported("dicom", source, tmp_path / "data", window=(0.0, 2000.0))
    values = grey(0).astype(float) - 1024
    assert np.array_equal(data["IM0"].read_image()[:, :, 0], 255 - scaled(values, -1000, 1000))


def test_colours_and_bytes_stay_as_they_are_and_masks_may_be_dicom(tmp_path: Path) -> None:
    source = tmp_path / "source"
    dicom(source / "a.dcm", picture(1))
    dicom(source / "b", picture(2)[:, :, 0].copy(), PatientID="")
    for name in "ab":
        dicom(source / f"{name}_mask.dcm", box(3, 4, 12, 20, 255))
    data, _ = imported("dicom", source, tmp_path / "data", split="100:0:0")
    assert np.array_equal(data["a"].read_image(), picture(1))
    assert np.array_equal(data["b"].read_image()[:, :, 0], picture(2)[:, :, 0])
    assert all(np.array_equal(case.read_mask(), box(3, 4, 12, 20) > 0) for case in data)


def test_frames_of_one_file_are_a_group_and_need_as_many_masks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    dicom(source / "clip.dcm", np.stack([grey(index) for index in range(3)]))
    dicom(source / "clip_mask.dcm", np.stack([box(3, 4, 12 + index, 20) for index in range(3)]))
    data, _ = imported("dicom", source, tmp_path / "data", split="100:0:0")
    assert [(case.id, case.group) for case in data] == [(f"clip-{index}", "clip") for index in range(3)]
    assert np.array_equal(data["clip-2"].read_mask(), box(3, 4, 14, 20) > 0)
    dicom(source / "clip_mask.dcm", box(3, 4, 12, 20))
    said = refused("dicom", source, tmp_path / "other")
    assert "has 3 frames, its mask" in said
    dicom(source / "clip.dcm", grey(0))
    assert len(imported("dicom", source, tmp_path / "one", split="100:0:0")[0]) == 1


def test_pixels_without_their_codec_are_one_line_and_the_remedy_works(tmp_path: Path) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLSLossless

    if get_decoder(JPEGLSLossless).is_available:
        pytest.skip("a codec of JPEG-LS is installed")
    source = write_dicom(tmp_path / "source")
    dicom(source / "images/IM2.dcm", grey(2), JPEGLSLossless)
    said = refused("dicom", source, tmp_path / "data")
    assert "compressed pixels need their codec: case IM2" in said
    assert "JPEG-LS Lossless" in said
    assert "pip install pylibjpeg" in said and "or save the file uncompressed" in said
    dicom(source / "images/IM2.dcm", grey(2))
    assert len(imported("dicom", source, tmp_path / "data")[0]) == 4


def test_slices_of_unequal_size_are_one_line_and_the_remedy_works(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "source", SeriesInstanceUID="1.2.3")
    dicom(source / "images/IM9.dcm", grey(0)[:20], SeriesInstanceUID="1.2.3", PatientID="Miller^0")
    put(source / "masks/IM9.png", box(3, 4, 12, 20, 255, (20, 48)))
    said = refused("dicom", source, tmp_path / "data")
    assert "has 48 x 20" in said and "of the same series 48 x 40" in said
    for path in source.rglob("IM9.*"):
        path.unlink()
    assert len(imported("dicom", source, tmp_path / "data")[0]) == 4


def test_what_is_no_dicom_image_is_refused(tmp_path: Path) -> None:
    source = write_dicom(tmp_path / "source")
    (source / "images/IM1.dcm").write_bytes(b"no image")
    assert "IM1" in refused("dicom", source, tmp_path / "data")
    dicom(source / "images/IM1.dcm", grey(1), Modality="SEG", PatientID="Miller^0")
    assert "is a segmentation object; save masks as images" in refused("dicom", source, tmp_path / "data")
    plain = tmp_path / "plain"
    put(plain / "images/a.png", picture(0))
    put(plain / "masks/a.png", box(3, 4, 12, 20, 255))
    assert "import it as `folder`" in refused("dicom", plain, tmp_path / "data")
    assert "import it as `dicom`" in refused("nifti", source, tmp_path / "data")


def write_volume(path: Path, values: np.ndarray, zooms: tuple[float, ...] = (0.5, 0.75, 3.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*zooms[:3], 1.0])), path)
    return path


def volume(seed: int, depth: int = 3) -> np.ndarray:
    """Return values, shape (X, Y, Z); each slice is the transpose of a picture."""
    return np.stack([grey(10 * seed + index).T for index in range(depth)], axis=2).astype(np.int16) - 1000


def labels(depth: int = 3, value: int = 1) -> np.ndarray:
    return np.stack([box(3, 4, 12 + index, 20, value).T for index in range(depth)], axis=2).astype(np.uint8)


def shown(plane: np.ndarray) -> np.ndarray:
    """Return a slice of a volume in RAS+ as a viewer shows it: anterior up, the patient's right on the left."""
    return plane[::-1, ::-1].T


def test_volumes_are_cut_into_slices_with_spacing_and_group(tmp_path: Path) -> None:
    for name in "abc":
        write_volume(tmp_path / f"source/images/{name}.nii.gz", volume(ord(name)))
        write_volume(tmp_path / f"source/labels/{name}.nii.gz", labels())
    data, notices = imported("nifti", tmp_path / "source", tmp_path / "data")
    assert len(data) == 9
    assert {case.group for case in data} == {"a", "b", "c"}
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [3, 3, 3]
    case = data["b-2"]
    values = volume(ord("b"))
    low, high = np.percentile(values, (0.5, 99.5))
    assert np.array_equal(case.read_image()[:, :, 0], scaled(shown(values[:, :, 2]), low, high))
    assert np.array_equal(case.read_mask(), shown(labels()[:, :, 2]) > 0)
    assert case.attributes == {"spacing_x": 0.5, "spacing_y": 0.75}
    assert "3 volumes became 9 slices" in notices
    assert any("percentile of their volume" in notice for notice in notices)


def test_volumes_without_labels_can_be_unannotated(tmp_path: Path) -> None:
    for name in "abc":
        write_volume(tmp_path / f"source/images/{name}.nii.gz", volume(ord(name)))
        write_volume(tmp_path / f"source/labels/{name}.nii.gz", labels())
    (tmp_path / "source/labels/b.nii.gz").unlink()
    given = ("nifti", tmp_path / "source", tmp_path / "data")
    assert "add --missing-masks unannotated" in refused(*given, split="100:0:0")
    data, notices = imported(*given, split="100:0:0", missing_masks="unannotated")
    assert {(case.id, case.group) for case in data.split("unannotated")} == {(f"b-{index}", "b") for index in range(3)}
    assert {case.group for case in data.split("train")} == {"a", "c"} and "3 volumes became 9 slices" in notices


def test_a_folder_a_patient_with_short_names_is_read(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        write_volume(tmp_path / f"source/{patient}/ct.nii.gz", volume(int(patient[1])))
        write_volume(tmp_path / f"source/{patient}/seg.nii.gz", labels())
    data, _ = imported("nifti", tmp_path / "source", tmp_path / "data", window=(0.0, 2000.0), split="100:0:0")
    assert {case.group for case in data} == {"p1", "p2"}
    assert np.array_equal(data["p2-ct-0"].read_image()[:, :, 0], scaled(shown(volume(2)[:, :, 0]), -1000, 1000))


def test_another_orientation_shows_the_same_picture(tmp_path: Path) -> None:
    write_volume(tmp_path / "a/images/x.nii", volume(1))
    write_volume(tmp_path / "a/labels/x.nii", labels())
    flipped = np.diag([-0.5, 0.75, 3.0, 1.0])
    for kind, values in (("images", volume(1)), ("labels", labels())):
        path = tmp_path / f"b/{kind}/x.nii"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(values[::-1], flipped), path)
    first, _ = imported("nifti", tmp_path / "a", tmp_path / "first", split="100:0:0")
    second, _ = imported("nifti", tmp_path / "b", tmp_path / "second", split="100:0:0")
    assert all(np.array_equal(case.read_image(), second[case.id].read_image()) for case in first)
    assert all(np.array_equal(case.read_mask(), second[case.id].read_mask()) for case in first)


def test_empty_slices_are_asked_about(tmp_path: Path) -> None:
    drawn = labels()
    drawn[:, :, 0] = 0
    write_volume(tmp_path / "source/images/x.nii", volume(1))
    write_volume(tmp_path / "source/labels/x.nii", drawn)
    assert "slice 0) is empty" in refused("nifti", tmp_path / "source", tmp_path / "data")
    data, _ = imported("nifti", tmp_path / "source", tmp_path / "a", empty_masks="leave-out", split="100:0:0")
    assert [case.id for case in data] == ["x-1", "x-2"]
    data, _ = imported("nifti", tmp_path / "source", tmp_path / "b", empty_masks="negative", split="100:0:0")
    assert [case.negative for case in data] == [True, False, False]


def test_bad_volumes_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_volume(source / "images/x.nii", volume(1))
    write_volume(source / "labels/x.nii", labels(2))
    assert "has 48 x 40 x 2 for a volume of 48 x 40 x 3" in refused("nifti", source, tmp_path / "data")
    write_volume(source / "labels/x.nii", labels().astype(np.float32) / 2)
    assert "holds fractions" in refused("nifti", source, tmp_path / "data")
    write_volume(source / "labels/x.nii", labels() + labels() * box(0, 0, 8, 8).T[:, :, None])
    said = refused("nifti", source, tmp_path / "data")
    assert "holds 1 and 2" in said
    data, _ = imported("nifti", source, tmp_path / "data", classes=("a=1,2", "b=2"), split="100:0:0")
    assert data.class_names == ("a", "b")
    (source / "labels/x.nii").write_bytes(b"nothing")
    assert "every file must decode" in refused("nifti", source, tmp_path / "other")


def test_channels_of_a_volume_are_chosen(tmp_path: Path) -> None:
    source = tmp_path / "source"
    channels = np.stack([volume(seed) for seed in range(4)], axis=3)
    write_volume(source / "images/x.nii", channels)
    write_volume(source / "labels/x.nii", labels())
    assert "has 4; choose with --channels" in refused("nifti", source, tmp_path / "data")
    data, _ = imported("nifti", source, tmp_path / "data", channels=(2,), split="100:0:0")
    low, high = np.percentile(volume(2), (0.5, 99.5))
    assert np.array_equal(data["x-1"].read_image()[:, :, 0], scaled(shown(volume(2)[:, :, 1]), low, high))


def test_nnunet_volumes_are_cut_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1}}')
    write_volume(source / "imagesTr/x_0000.nii.gz", volume(1))
    write_volume(source / "imagesTr/x_0001.nii.gz", volume(2))
    write_volume(source / "labelsTr/x.nii.gz", labels())
    data, _ = imported("nnunet", source, tmp_path / "data", split="100:0:0")
    assert data.class_names == ("tumour",)
    assert [(case.id, case.group) for case in data] == [(f"x-{index}", "x") for index in range(3)]
    assert np.array_equal(data["x-1"].read_mask(), shown(labels()[:, :, 1]) > 0)
    image = data["x-1"].read_image()
    for channel, seed in enumerate((1, 2)):
        low, high = np.percentile(volume(seed), (0.5, 99.5))
        assert np.array_equal(image[:, :, channel], scaled(shown(volume(seed)[:, :, 1]), low, high))
    assert not image[:, :, 2].any()


@pytest.mark.parametrize(("layout", "module", "extra"), [("dicom", "pydicom", "dicom"), ("nifti", "nibabel", "nifti")])
def test_a_missing_extra_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, module: str, extra: str
) -> None:
    source = tmp_path / "source"
    if layout == "dicom":
        write_dicom(source)
    else:
        write_volume(source / "images/missing.nii", volume(1))
        write_volume(source / "labels/missing.nii", labels())
    monkeypatch.setitem(__import__("sys").modules, module, None)
    assert f"install the extra: pip install 'diffaug[{extra}]'" in refused(layout, source, tmp_path / "data")


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 0},
        {"Rows": 12},
        {"NumberOfFrames": 2_000_000_000},
        {"NumberOfFrames": 40},
        {"SamplesPerPixel": 60_000},
        {"PixelSpacing": [0.0, -1.0]},
    ],
    ids=str,
)
def test_a_dicom_file_that_declares_more_than_it_holds_is_one_line(tmp_path: Path, elements: dict[str, Any]) -> None:
    source = write_dicom(tmp_path / "source")
    dicom(source / "images/IM1.dcm", grey(1), **{"PatientID": "Miller^0", **elements})
    if "PixelSpacing" in elements:  # what cannot be is not kept
        assert "spacing_x" not in imported("dicom", source, tmp_path / "data")[0]["IM1"].attributes
    else:
        assert "IM1" in refused("dicom", source, tmp_path / "data")


def test_a_deflated_dicom_file_is_read_and_one_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    source = write_dicom(tmp_path / "source")
    dicom(source / "images/IM1.dcm", grey(1), PatientID="Miller^0")
    data = pydicom.dcmread(source / "images/IM1.dcm")
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(source / "images/IM1.dcm", enforce_file_format=True)
    assert len(imported("dicom", source, tmp_path / "data")[0]) == 4
    monkeypatch.setattr("diffaug.data.sources.dicom.LARGEST", 2000)
    assert "unpacks to more than 2,000 bytes" in refused("dicom", source, tmp_path / "more")


def _with_header(path: Path, at: int, form: str, *values: float) -> None:
    """Overwrite a field of the header of a NIfTI-1 file, which may be packed."""
    packed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    struct.pack_into(f"<{form}", data, at, *values)
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("at", "form", "values"),
    [
        (40, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)),
        (40, "8h", (3, -48, 40, 3, 1, 1, 1, 1)),
        (40, "8h", (0, 0, 0, 0, 0, 0, 0, 0)),
        (108, "f", (1e9,)),
        (108, "f", (-400.0,)),
        (70, "h", (9999,)),
    ],
)
def test_a_volume_that_declares_more_than_can_be_is_one_line(tmp_path: Path, ending: str, at: int, form: str, values):
    for folder, kind in (("images", np.int16), ("labels", np.uint8)):
        (tmp_path / "source" / folder).mkdir(parents=True)
        volume = nibabel.Nifti1Image(np.ones((20, 16, 3), kind), np.eye(4))
        nibabel.save(volume, tmp_path / "source" / folder / f"p1.{ending}")
    _with_header(tmp_path / "source" / "images" / f"p1.{ending}", at, form, *values)
    assert f"p1.{ending}" in refused("nifti", tmp_path / "source", tmp_path / "data")


def test_scaled_values_of_a_volume_are_those_that_nibabel_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = nibabel.Nifti1Image(rng.integers(0, 900, (20, 16, 3)).astype(np.int16), np.diag([-1.0, 1.0, 3.0, 1.0]))
    volume.header.set_slope_inter(-0.37, 12.5)
    nibabel.save(volume, tmp_path / "a.nii.gz")
    whole = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz")).get_fdata()
    found = read_volume(tmp_path / "a.nii.gz")
    for index in range(3):
        expected = np.swapaxes(whole[::-1, ::-1, index], 0, 1)
        assert np.array_equal(found.plane(2, index)[:, :, 0], expected)
    assert found.limits is not None
    assert np.allclose(found.limits[0], percentile_limits(whole, PERCENTILES), rtol=1e-12)


def test_volumes_in_memory_stay_below_a_bound(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("diffaug.data.sources.nifti.LARGEST_CASE", 3000)
    for name in "abcd":
        nibabel.save(nibabel.Nifti1Image(np.ones((10, 10, 10), np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
        read_volume(tmp_path / f"{name}.nii.gz")
    assert sum(volume.values.nbytes for volume in nifti._kept.values()) <= 3000
