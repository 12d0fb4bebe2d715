import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from diffaug.data.case import Case
from diffaug.data.examine import examine_case
from diffaug.data.images import mask_from_file, read_image, read_label, read_mask, rgb_from_file, write_png
from diffaug.errors import DataError

ORIENTATIONS = range(1, 9)


def half(height: int = 20, width: int = 30) -> np.ndarray:
    """Return a mask, 0 and 255, that no turn or flip maps onto itself."""
    mask = np.zeros((height, width), np.uint8)
    mask[2:9, 3:8] = 255
    mask[2:5, 3:20] = 255
    return mask


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


def rgb(mask: np.ndarray) -> np.ndarray:
    return np.repeat(mask[:, :, None], 3, axis=2)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_turns_image_and_mask_alike(tmp_path: Path, orientation: int) -> None:
    for name, values in (("image.png", rgb(half())), ("mask.png", half())):
        Image.fromarray(values).save(tmp_path / name, exif=exif(orientation))
    case = Case("a", tmp_path / "image.png", tmp_path / "mask.png", "a", "train")
    assert case.read_mask().shape == ((30, 20) if orientation >= 5 else (20, 30))
    assert np.array_equal(case.read_image()[:, :, 0] > 127, case.read_mask())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_stored_pixels_of_a_turned_image_turns_with_it(tmp_path: Path, orientation: int) -> None:
    Image.fromarray(rgb(half())).save(tmp_path / "image.png", exif=exif(orientation))
    Image.fromarray(half()).save(tmp_path / "mask.png")
    case = Case("a", tmp_path / "image.png", tmp_path / "mask.png", "a", "train")
    assert np.array_equal(case.read_image()[:, :, 0] > 127, case.read_mask())


def test_a_mask_drawn_upright_for_a_turned_image_stays_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(rgb(half())).save(tmp_path / "image.png", exif=exif(6))
    upright = np.rot90(half(), -1)
    Image.fromarray(upright).save(tmp_path / "mask.png")
    case = Case("a", tmp_path / "image.png", tmp_path / "mask.png", "a", "train")
    assert np.array_equal(case.read_mask(), upright > 0)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_a_turned_tiff_is_read_as_that_of_a_png(tmp_path: Path, orientation: int) -> None:
    for suffix in ("png", "tif"):
        Image.fromarray(rgb(half())).save(tmp_path / f"image.{suffix}", exif=exif(orientation))
    upright = read_image(tmp_path / "image.png")
    assert np.array_equal(read_image(tmp_path / "image.tif"), upright)
    for name, drawn in (("stored", half()), ("upright", upright[:, :, 0])):
        Image.fromarray(drawn).save(tmp_path / f"{name}.png")
        for suffix in ("png", "tif"):
            case = Case("a", tmp_path / f"image.{suffix}", tmp_path / f"{name}.png", "a", "train")
            assert np.array_equal(case.read_mask(), upright[:, :, 0] > 127), (name, suffix)


@pytest.mark.parametrize(("orientation", "noted"), [(2, True), (3, True), (4, True), (6, False)])
def test_a_mask_whose_shape_does_not_tell_how_it_was_drawn_is_said(
    tmp_path: Path, orientation: int, noted: bool
) -> None:
    Image.fromarray(rgb(half())).save(tmp_path / "image.png", exif=exif(orientation))
    Image.fromarray(half()).save(tmp_path / "mask.png")
    case = Case("a", tmp_path / "image.png", tmp_path / "mask.png", "a", "train")
    assert ("unturned-mask" in examine_case(case).notes) is noted


def test_every_plain_format_reads_as_the_same_rgb(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for name in ("a.png", "a.tif", "a.tiff", "a.bmp", "a.PNG"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), pixels)


@pytest.mark.parametrize(
    ("mode", "note"),
    [("L", "grey"), ("1", "grey"), ("P", "palette"), ("RGBA", "transparency"), ("LA", "transparency"), ("RGB", "")],
)
def test_other_modes_become_rgb_and_are_named(tmp_path: Path, mode: str, note: str) -> None:
    image = Image.fromarray(rgb(half())).convert(mode)
    if note == "transparency":
        image.putalpha(128)
    image.save(tmp_path / "a.png")
    pixels, found = rgb_from_file(tmp_path / "a.png")
    assert found == note
    assert np.array_equal(pixels, rgb(half()))


@pytest.mark.parametrize(("mode", "note"), [("RGBA", ""), ("LA", "grey")])
def test_an_opaque_alpha_channel_is_no_transparency(tmp_path: Path, mode: str, note: str) -> None:
    Image.fromarray(rgb(half())).convert(mode).save(tmp_path / "a.png")
    pixels, found = rgb_from_file(tmp_path / "a.png")
    assert found == note
    assert np.array_equal(pixels, rgb(half()))


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels, note = rgb_from_file(tmp_path / "a.png")
    assert note == "16-bit"
    assert np.array_equal(pixels[:, :, 0].ravel(), np.arange(256))


def test_twelve_bits_and_unit_floats_fill_the_range_too(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 1.0, np.float32)).save(tmp_path / "b.tif")
    assert read_image(tmp_path / "a.png").min() == 255
    assert read_image(tmp_path / "b.tif").min() == 255


def test_a_jpeg_mask_is_cut_at_127(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :], 16, axis=0)
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=100)
    stored = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert np.array_equal(read_mask(tmp_path / "a.jpg"), stored > 127)


def test_jpeg_noise_never_makes_a_lesion(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 12, (32, 32), dtype=np.uint8)).save(tmp_path / "a.jpg")
    assert not read_mask(tmp_path / "a.jpg").any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_class_numbers_of_a_lossless_mask_are_all_lesion(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.array([[0, 1], [2, 0]], dtype)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[False, True], [True, False]]


def test_palette_colours_are_class_numbers_and_palette_greys_are_greys(tmp_path: Path) -> None:
    colours = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    colours.putpalette([0, 0, 0, 90, 0, 0, 0, 90, 0])
    colours.save(tmp_path / "colours.png")
    greys = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    greys.putpalette([255, 255, 255, 0, 0, 0])  # white first, as a quantiser may write it
    greys.save(tmp_path / "greys.png")
    assert read_mask(tmp_path / "colours.png").tolist() == [[False, True, True]]
    assert read_mask(tmp_path / "greys.png").tolist() == [[True, False]]


def test_coloured_lesions_count_and_transparent_ones_do_not(tmp_path: Path) -> None:
    red = np.zeros((1, 2, 3), np.uint8)
    red[0, 1] = (255, 0, 0)
    Image.fromarray(red).save(tmp_path / "red.jpg", quality=100, subsampling=0)
    Image.fromarray(red).save(tmp_path / "red.png")
    clear = np.full((1, 2, 4), 255, np.uint8)
    clear[0, 0, 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_mask(tmp_path / "red.png").tolist() == [[False, True]]
    assert read_mask(tmp_path / "clear.png").tolist() == [[False, True]]


def test_a_mask_of_sixteen_bits_is_cut_at_half_of_its_largest_value(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 20000, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == [[False, False, True]]


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "every file must decode"),
        (b"not an image", "every file must decode"),
        (png_of(9000, 9000), "80,000,000 pixels at most"),
        (png_of(60000, 60000), "80,000,000 pixels at most"),
        *((encoded(kind)[:cut], "every file must decode") for kind in ("PNG", "JPEG", "BMP") for cut in (40, 1500)),
        *((encoded("TIFF")[:cut], "every file must decode") for cut in (6, 1500)),
        (encoded("PNG")[:-1], "the end of the file is missing"),
        (encoded("PNG")[:-12], "the end of the file is missing"),
    ],
)
def test_a_file_that_is_damaged_or_too_large_is_one_line_that_names_the_case(
    tmp_path: Path, data: bytes, rule: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for read in (read_image, read_mask):
        with pytest.raises(DataError) as raised:
            read(path, "case-7")
        message = str(raised.value)
        assert rule in message
        assert "case-7" in message
        assert "\n" not in message


@pytest.mark.parametrize(("name", "shape"), [("label.jpg", (4, 4)), ("label.png", (4, 4, 3))])
def test_a_label_that_is_lossy_or_coloured_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    Image.fromarray(np.ones(shape, np.uint8)).save(tmp_path / name)
    with pytest.raises(DataError, match="a lossless grey or palette image") as raised:
        read_label(tmp_path / name, "case-7")
    assert "case-7" in str(raised.value) and "\n" not in str(raised.value)


def test_what_lies_behind_the_end_of_a_png_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG") + bytes(100_000))
    assert read_image(tmp_path / "a.png").shape == (64, 64, 3)


def test_png_bytes_depend_on_the_pixels_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels)
    write_png(tmp_path / "b.png", pixels.copy())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


def test_a_picture_that_is_cut_off_while_it_is_written_is_absent(tmp_path, monkeypatch):
    def cut_off(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", cut_off)
    with pytest.raises(OSError, match="no space left"):
        write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert not list(tmp_path.iterdir())


DISC = np.hypot(*(np.mgrid[:40, :40] - 20)) < 12


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize("colour", [(255, 0, 0), (255, 255, 255), (40, 90, 20)])
@pytest.mark.parametrize("colours", [2, 5])
def test_a_picture_of_two_colours_that_a_library_quantised_is_not_turned_inside_out(
    tmp_path: Path, colour: tuple[int, int, int], colours: int
) -> None:
    pixels = np.where(DISC[:, :, None], colour, 0).astype(np.uint8)
    for number, method in enumerate((Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE, Image.Quantize.FASTOCTREE)):
        path = saved(tmp_path / f"{number}.png", Image.fromarray(pixels).quantize(colours, method))
        assert np.array_equal(read_mask(path), DISC)


def palette_mask(path: Path, palette: list[int], indices: np.ndarray) -> Path:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(palette)
    return saved(path, image)


def test_the_background_of_a_palette_is_index_0_or_black_wherever_it_stands(tmp_path: Path) -> None:
    mask, guessed = mask_from_file(palette_mask(tmp_path / "a.png", [0, 0, 0, 200, 0, 0], DISC))
    assert np.array_equal(mask, DISC) and guessed == ""
    mask, guessed = mask_from_file(palette_mask(tmp_path / "b.png", [200, 0, 0, 0, 0, 0], ~DISC))
    assert np.array_equal(mask, DISC) and guessed == "palette-mask"


def test_a_palette_that_does_not_say_what_is_background_is_refused_with_the_option_that_does(tmp_path: Path) -> None:
    path = palette_mask(tmp_path / "a.png", [0, 0, 255, 255, 200, 0], DISC)
    with pytest.raises(DataError, match=r"--classes, such as background=1 lesion=0"):
        read_mask(path)


@pytest.mark.parametrize("codes", [(40, 200), (1, 300), (100, 60000)])
@pytest.mark.parametrize("radius", [3, 8])  # of the lesion with the lower code: smaller and larger than a square of 5
def test_a_mask_of_several_codes_never_loses_the_lower_ones_without_a_word(
    tmp_path: Path, codes: tuple[int, int], radius: int
) -> None:
    values = np.zeros((60, 60), np.uint16 if codes[1] > 255 else np.uint8)
    values[np.hypot(*(np.mgrid[:60, :60] - 45)) < 10] = codes[1]
    values[np.hypot(*(np.mgrid[:60, :60] - 12)) < radius] = codes[0]
    with pytest.raises(DataError, match=rf"--classes lesion={codes[0]},{codes[1]}"):
        read_mask(saved(tmp_path / "a.png", Image.fromarray(values)))


def test_soft_edges_are_no_codes(tmp_path: Path) -> None:
    large = Image.fromarray(DISC.astype(np.uint8) * 255)
    for number, method in enumerate((Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX)):
        soft = large.resize((91, 67), method)
        assert np.array_equal(read_mask(saved(tmp_path / f"{number}.png", soft)), np.asarray(soft) > 127)


@pytest.mark.parametrize(("lowest", "highest", "depth"), [(0, 1, "unit"), (-0.03, 1.02, "unit-cut"), (0, 250, "8-bit")])
def test_real_numbers_that_pass_white_a_little_stay_what_they_are(
    tmp_path: Path, lowest: float, highest: float, depth: str
) -> None:
    values = np.linspace(lowest, highest, 64, dtype=np.float32).reshape(8, 8)
    pixels, found = rgb_from_file(saved(tmp_path / "a.tif", Image.fromarray(values)))
    white = 255 if depth == "8-bit" else 1
    assert found == depth
    assert np.array_equal(pixels[:, :, 0], np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("values", [[-1000.0, 400.0], [0.0, 1.5], [-0.5, 0.5], [-3, 300]])
def test_values_whose_white_is_not_clear_are_refused_with_the_option_that_decides(
    tmp_path: Path, values: list[float]
) -> None:
    array = np.array([values], np.int32 if isinstance(values[0], int) else np.float32)
    with pytest.raises(DataError, match=r"what is white must be clear: .*--window CENTRE,WIDTH"):
        read_image(saved(tmp_path / "a.tif", Image.fromarray(array)))


def test_a_mask_of_negative_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no negative values"):
        read_mask(saved(tmp_path / "a.tif", Image.fromarray(np.array([[-1, 0, 1]], np.int32))))


def test_a_picture_that_another_program_would_draw_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="not an image"):
        read_image(tmp_path / "a.png")
