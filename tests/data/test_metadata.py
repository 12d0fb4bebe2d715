import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffaug.data.folder import copy_case, read_dataset, subset_dataset
from diffaug.data.images import read_image
from diffaug.data.importing import import_dataset
from diffaug.data.metadata import copy_picture, without_metadata
from diffaug.data.orientation import orientation_of
from diffaug.errors import DataError

SECRET = b"Jane Doe 1950"
FORMATS = ("png", "jpg", "webp", "tif", "jp2", "bmp")


def picture(seed: int = 0) -> Image.Image:
    """Return smooth noise, 30 x 20."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((30, 20), Image.Resampling.BICUBIC)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8298] = orientation, SECRET.decode(), SECRET.decode()
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def save_with_secrets(path: Path, orientation: int = 1, mode: str = "RGB", **options: object) -> Path:
    """Write a picture whose metadata tell whose it is, as far as its format can."""
    image, kind = picture().convert(mode), path.suffix
    if kind == ".png":
        text = PngInfo()
        for add in (text.add_text, text.add_itxt):
            add("Patient", SECRET.decode())
        text.add_text("Zipped", SECRET.decode(), zip=True)
        text.add(b"prIv", SECRET)
        options |= {"pnginfo": text, "exif": exif_of(orientation), "icc_profile": SECRET}
    elif kind in (".jpg", ".webp"):
        options |= {"exif": exif_of(orientation), "icc_profile": SECRET, "xmp": SECRET}
        options |= {"comment": SECRET} if kind == ".jpg" else {"lossless": True}
    elif kind == ".tif":
        options |= {"tiffinfo": {270: SECRET.decode(), 274: orientation, 315: SECRET.decode()}}
    elif kind == ".jp2":
        options |= {"comment": SECRET}
    image.save(path, **options)
    if kind in (".png", ".jpg"):
        path.write_bytes(path.read_bytes() + SECRET)  # behind the end
    if kind == ".jp2":
        box = (8 + len(SECRET)).to_bytes(4) + b"xml " + SECRET
        path.write_bytes(path.read_bytes() + box)
    return path


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_orientation_stay_and_nothing_else(tmp_path: Path, kind: str, orientation: int) -> None:
    path = save_with_secrets(tmp_path / f"a.{kind}", orientation)
    before = read_image(path)
    copy = copy_picture(path, tmp_path / "copy", "b")
    data = copy.read_bytes()
    assert copy.suffix == path.suffix
    assert np.array_equal(read_image(copy), before) and orientation_of(copy) == orientation_of(path)
    assert SECRET not in data and b"GPS" not in data
    with Image.open(copy) as image:
        exif = {tag for tag in image.getexif() if kind != "tif"}
        assert not exif - {0x0112} and not {"icc_profile", "comment", "xmp", "Patient"} & set(image.info)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "jp2"])  # which names its encoder
def test_a_file_without_metadata_is_copied_byte_by_byte(tmp_path: Path, kind: str) -> None:
    picture().save(tmp_path / f"a.{kind}")
    copy = copy_picture(tmp_path / f"a.{kind}", tmp_path / "copy", "b")
    assert copy.read_bytes() == (tmp_path / f"a.{kind}").read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}])
def test_every_kind_of_jpeg_decodes_to_the_same_pixels(tmp_path: Path, mode: str, options: dict[str, object]) -> None:
    path = save_with_secrets(tmp_path / "a.jpg", mode=mode, **options)
    clean = without_metadata(path.read_bytes())
    assert clean is not None
    with Image.open(path) as before, Image.open(io.BytesIO(clean)) as after:  # CMYK is told by Adobe's marker
        assert after.mode == before.mode == mode and np.array_equal(np.asarray(after), np.asarray(before))
    assert SECRET not in clean


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_png_keeps_its_mode_palette_and_transparency(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)) if mode == "I;16" else picture()
    image = image if mode == "I;16" else image.convert(mode)
    options = {"transparency": 3} if mode == "P" else {}
    image.save(tmp_path / "a.png", **options)
    clean = without_metadata((tmp_path / "a.png").read_bytes())
    assert clean is not None
    with Image.open(io.BytesIO(clean)) as found, Image.open(tmp_path / "a.png") as before:
        assert found.mode == before.mode and found.info.get("transparency") == before.info.get("transparency")
        assert np.array_equal(np.asarray(found), np.asarray(before)) and found.getpalette() == before.getpalette()


def test_a_preview_inside_a_jpeg_is_dropped(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    preview = data[:2] + b"\xff\xe0" + (16 + 3).to_bytes(2) + data[6:18] + b"\x01\x01" + b"abc" + data[20:]
    assert without_metadata(preview) == data


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_a_file_that_is_cut_off_is_one_line(tmp_path: Path, kind: str, share: float) -> None:
    path = save_with_secrets(tmp_path / f"a.{kind}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="every file must decode") as error:
        copy_picture(path, tmp_path / "copy", "b")
    assert "\n" not in str(error.value)


def test_an_unknown_format_becomes_a_png_with_the_same_pixels(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.gif", comment=SECRET)
    copy = copy_picture(tmp_path / "a.gif", tmp_path / "copy", "b")
    assert copy.name == "b.png" and SECRET not in copy.read_bytes()
    assert np.array_equal(read_image(copy), read_image(tmp_path / "a.gif"))


def test_import_and_subset_leave_out_what_tells_whose_a_picture_is(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    for index in range(3):
        save_with_secrets(source / "images" / f"c{index}.jpg", orientation=6)
        mask = np.zeros((20, 30), np.uint8)  # on stored pixels
        mask[4:12, 5:20] = 255
        text = PngInfo()
        text.add_text("Patient", SECRET.decode())
        Image.fromarray(mask).save(source / "masks" / f"c{index}.png", pnginfo=text)
    data = import_dataset("folder", source, tmp_path / "data", split="100:0:0").dataset
    subset = subset_dataset(data, tmp_path / "subset", annotated=2)
    copies = [copy_case(case, tmp_path / "bytes") for case in subset]
    assert all(copy.image.read_bytes() == case.image.read_bytes() for copy, case in zip(copies, subset, strict=True))
    for folder in (data.folder, subset.folder):
        for case in read_dataset(folder):
            assert case.read_image().shape == (30, 20, 3)
            assert case.mask is None or case.read_mask().shape == (30, 20)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files and all(SECRET not in path.read_bytes() for path in files)


def test_text_that_a_png_holds_packed_is_gone_too() -> None:
    text = PngInfo()
    text.add_text("Patient", SECRET.decode() * 50, zip=True)
    file = io.BytesIO()
    picture().save(file, "PNG", pnginfo=text)
    clean = without_metadata(file.getvalue())
    assert clean is not None and zlib.compress(SECRET * 50)[2:20] not in clean and b"zTXt" not in clean


def test_a_picture_that_says_it_is_huge_is_not_copied(tmp_path):
    Image.new("P", (4, 4)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(DataError, match="every file must decode"):
        copy_picture(tmp_path / "a.gif", tmp_path / "out", "a")
