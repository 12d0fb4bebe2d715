"""From a synthetic picture back to what it was made of, and to the same picture again."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from synthetic_sets import CONFIG

from diffaug.artifacts import digest_of_file, read_json, versions, write_json
from diffaug.cli.main import main
from diffaug.data.folder import read_dataset
from diffaug.data.images import png_info, read_image, write_png
from diffaug.data.manifest import read_manifest
from diffaug.data.metadata import copy_picture
from diffaug.data.origin import KEY, MARK, Origin, read_origin, recorded_settings
from diffaug.errors import ConfigError, DataError, DiffaugError, ModelError
from diffaug.export.export import export_set
from diffaug.synthesis.explain import explain_image
from diffaug.synthesis.generate import generate
from diffaug.synthesis.reproduce import Reproduction, reproduce_image
from diffaug.synthesis.shards import shard_folder


def kept_row(folder):
    return next(row for row in read_manifest(folder) if row.decision == "kept")


@pytest.fixture
def stray(unbroken, tmp_path):
    """A kept picture that was copied out of its set."""
    return Path(shutil.copy(unbroken / kept_row(unbroken).image, tmp_path / "figure 1.png"))


def texts_of(path):
    with Image.open(path) as image:
        return {name: text for name, text in image.info.items() if isinstance(text, str)}


# What pictures say


def test_every_picture_of_a_set_says_that_it_is_synthetic_and_masks_say_nothing(unbroken, removed):
    marked, plain = [], []
    for path in [*unbroken.rglob("*.png"), *removed.rglob("*.png")]:
        (marked if "synthetic" in texts_of(path).get("Description", "") else plain).append(path)
    assert {path.parent.name for path in marked} >= {"images", "turned-down", "synthetic", "set"}
    assert all(path.parent.name in ("masks", "regions") or path.stem.endswith("_mask") for path in plain)
    assert not any(path.parent.name in ("masks", "regions") or path.stem.endswith("_mask") for path in marked)
    sheets = [path for path in marked if read_origin(path) is None]
    assert {path.name for path in sheets} == {"contact_sheet.png", "before_after.png"}


def test_a_picture_holds_its_request_and_the_digest_that_its_set_had_before_it_was_painted(unbroken):
    identity = read_json(unbroken / "config.json")["identity"]
    for row in read_manifest(unbroken):
        for path, kind in ((row.image, "picture"), (row.preview, "preview")):
            if path:
                origin = read_origin(unbroken / path)
                assert (origin.id, origin.kind, origin.requests) == (row.id, kind, (row.request,))
                assert origin.settings == recorded_settings(identity) and origin.model == row.model
                assert origin.validator == row.validator and origin.versions == versions()
                assert origin.processor and origin.sources == row.request.sources


def test_metadata_hold_no_paths_and_no_names_of_users(unbroken, removed, strict, fitted, phantoms, tmp_path):
    for path in [*unbroken.rglob("*.png"), *removed.rglob("*.png")]:
        text = " ".join(texts_of(path).values())
        assert "/" not in text and "\\\\" not in text
        assert not any(part in text for folder in (unbroken, strict, fitted, phantoms) for part in folder.parts[1:-1])
        assert len(text) < 3000


def test_pixels_do_not_depend_on_what_is_said_of_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    write_png(tmp_path / "plain.png", pixels)
    write_png(tmp_path / "told.png", pixels, texts={**MARK, KEY: "{}"})
    write_png(tmp_path / "again.png", pixels, texts={**MARK, KEY: "{}"})
    assert (tmp_path / "told.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "told.png"), pixels)
    plain, told = ((tmp_path / f"{name}.png").read_bytes() for name in ("plain", "told"))
    assert plain[plain.index(b"IDAT") :] == told[told.index(b"IDAT") :]


def test_an_origin_comes_back_as_it_was_told(unbroken, tmp_path):
    origin = read_origin(unbroken / kept_row(unbroken).image)
    other = replace(origin, requests=tuple(replace(each, prompt="ein großer Polyp") for each in origin.requests))
    write_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), texts=other.texts())
    assert read_origin(tmp_path / "a.png") == other


def test_a_copy_without_metadata_keeps_what_marks_it_as_synthetic(stray, tmp_path):
    copy = copy_picture(stray, tmp_path / "import", "case-1")
    assert read_origin(copy) == read_origin(stray) and texts_of(copy)["Description"] == MARK["Description"]
    info = png_info({**MARK, KEY: "[]", "Author": "somebody"})
    Image.new("RGB", (8, 8)).save(tmp_path / "odd.png", pnginfo=info)
    assert texts_of(copy_picture(tmp_path / "odd.png", tmp_path / "import", "case-2")) == MARK
    Image.new("RGB", (8, 8)).save(tmp_path / "real.png", pnginfo=png_info({"Author": "somebody"}))
    assert texts_of(copy_picture(tmp_path / "real.png", tmp_path / "import", "case-3")) == {}


def test_exports_keep_what_pictures_say(unbroken, phantoms, tmp_path):
    for layout in ("nnunet", "folder", "yolo", "coco", "monai", "hf", "fiftyone"):
        export_set(unbroken, tmp_path / layout, layout, phantoms)
        found = [path for path in (tmp_path / layout).rglob("*.png") if KEY in texts_of(path)]
        assert {read_origin(path).id for path in found} == {case.id for case in read_dataset(unbroken)}, layout


# Explaining


def test_a_picture_in_its_set_is_explained_by_its_metadata_and_its_row(unbroken):
    for row in read_manifest(unbroken):
        for path, what in ((row.image, "picture"), (row.mask, "mask"), (row.preview, "preview")):
            if path:
                found = explain_image(unbroken / path)
                assert (found.what, found.row, found.origin.requests) == (what, row, (row.request,))
                assert found.marked == (what != "mask") and found.state == "same" and found.folder == unbroken


def test_a_stray_picture_is_explained_by_its_metadata_alone_and_completed_from_its_set(unbroken, stray):
    row = kept_row(unbroken)
    alone, whole = explain_image(stray), explain_image(stray, unbroken)
    assert alone.row is None and alone.origin == whole.origin and alone.origin.requests == (row.request,)
    assert whole.row == row and whole.state == "same"


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_copy_that_lost_its_metadata_is_found_in_its_set(unbroken, tmp_path, kind):
    row = kept_row(unbroken)
    with Image.open(unbroken / getattr(row, kind)) as image:
        Image.fromarray(np.asarray(image)).save(tmp_path / "copy.bmp" if kind == "image" else tmp_path / "copy.png")
    copy = next(tmp_path.glob("copy.*"))
    with pytest.raises(DataError, match="neither, so it is a real image, or a copy that lost its metadata"):
        explain_image(copy)
    if kind == "mask":
        return
    found = explain_image(copy, unbroken)
    assert (found.row, found.state, found.marked) == (row, "pixels", False)
    assert found.origin.requests == (row.request,) and found.origin.model == row.model


def test_a_changed_picture_is_told(unbroken, stray):
    pixels, texts = read_image(stray), read_origin(stray).texts()
    pixels[:4] = 255
    write_png(stray, pixels, texts=texts)
    assert explain_image(stray, unbroken).state == "other"


def test_real_images_and_pictures_of_other_sets_are_one_clear_line(unbroken, ungated, phantoms, stray):
    real = read_dataset(phantoms).split("train")[0]
    with pytest.raises(DataError, match="does neither, so it is a real image"):
        explain_image(real.image)
    with pytest.raises(DataError, match=f"is a real image: {real.id}, on which the model"):
        explain_image(real.image, unbroken)
    with pytest.raises(DataError, match="has none like"):
        explain_image(ungated / kept_row(ungated).image, unbroken)
    with pytest.raises(DataError, match=r"no\.png: it does not exist"):
        explain_image(phantoms / "no.png")
    with pytest.raises(DataError, match="it is no picture"):
        explain_image(phantoms / "cases.csv")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda values: "no JSON", "are no JSON"),
        (lambda values: "[" * 2000, "are no JSON"),
        (lambda values: "[]", "of format 'None'"),
        (lambda values: {**values, "format": 7}, "of format '7', not 1"),
        (lambda values: {**values, "format": "x" * 50_000}, r"of format 'x{59}\.\.\.x{9}', not 1"),
        (lambda values: {**values, "settings": {**values["settings"], "seed": 5}}, "contradict the digest"),
        (lambda values: {**values, "id": "../../etc"}, "has a slash"),
        (lambda values: {**values, "requests": [{"index": 1}]}, "requests"),
        (lambda values: {**values, "versions": None}, "versions"),
    ],
)
def test_hostile_metadata_are_one_clear_line(stray, change, line):
    values = read_origin(stray).as_dict()
    changed = change(values)
    info = PngInfo()
    info.add_itxt(KEY, changed if isinstance(changed, str) else json.dumps(changed))
    Image.new("RGB", (8, 8)).save(stray, pnginfo=info)
    with pytest.raises(DataError, match=line) as error:
        explain_image(stray)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "requests", "line"),
    [
        ({}, (), "requests: List should have at least 1 item"),
        ({}, (-1,), "requests.0: Input should be greater"),
        ({}, (10**12,), "requests.0: Input should be less than 250000"),
        ({"seed": "x"}, (0,), "seed: Input should be a valid integer"),
        ({"seed": -1}, (0,), "seed: Input should be greater"),
        ({"generate.shard_size": 10**9}, (0,), "shard_size: Input should be less"),
        ({"generate.slots": 10**9}, (0,), "slots: Input should be less"),
        ({"generate.domain": "fundus", "generate.findings": "x.yaml", "generate.nonsense": 1}, (0,), "nonsense is not"),
    ],
)
def test_a_picture_that_asks_for_what_no_set_has_is_not_painted(stray, strict, phantoms, settings, requests, line):
    origin = read_origin(stray)
    asked = tuple(replace(origin.requests[0], index=index) for index in requests)
    hostile = replace(origin, settings={**origin.settings, **settings}, requests=asked)
    write_png(stray, np.zeros((4, 4, 3), np.uint8), texts=hostile.texts())
    with pytest.raises(DiffaugError, match=line) as error:
        reproduce_image(stray, strict, phantoms)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("noted", [3, [1], "ab", None])
def test_versions_of_another_type_in_a_set_are_one_clear_line(unbroken, tmp_path, noted):
    out = shutil.copytree(unbroken, tmp_path / "set")
    write_json(out / "config.json", {**read_json(out / "config.json"), "versions": noted})
    with Image.open(out / kept_row(out).image) as image:
        Image.fromarray(np.asarray(image)).save(tmp_path / "copy.png")
    with pytest.raises(DataError, match="only diffaug writes the versions in"):
        explain_image(tmp_path / "copy.png", out)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that are files")
def test_a_pipe_is_no_picture_of_a_set_and_nobody_waits_for_it(unbroken, phantoms, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "set")
    path = out / kept_row(out).image
    path.unlink()
    os.mkfifo(path)
    real = read_image(read_dataset(phantoms).split("train")[0].image)
    Image.fromarray(real).save(tmp_path / "other.bmp")
    for image in (path, tmp_path / "other.bmp"):
        with pytest.raises(DataError, match=r"it is no picture|has none like"):
            explain_image(image, out)


@pytest.mark.slow
def test_findings_come_with_their_references(strict, phantoms, tmp_path):
    config = CONFIG.model_copy(update={"count": 2, "domain": "endoscopy", "gate": "off"})
    generate(strict, phantoms, tmp_path / "set", config)
    row = kept_row(tmp_path / "set")
    stray = shutil.copy(tmp_path / "set" / row.image, tmp_path / "stray.png")
    found = explain_image(stray)
    assert (
        row.request.findings
        and found.domain == "endoscopy"
        and all("doi:" in one or "pmid:" in one for one in found.references)
    )
    again = reproduce_image(stray, strict, phantoms)
    assert again.same_file


def test_a_removal_is_explained_and_reproduced(removed, fitted, phantoms, tmp_path):
    picture = sorted((removed / "images").glob("*.png"))[0]
    found = explain_image(picture)
    assert found.origin.kind == "removed" and found.origin.source == found.row.source and found.state == "same"
    stray = shutil.copy(picture, tmp_path / "stray.png")
    assert explain_image(stray).origin == found.origin
    assert reproduce_image(stray, fitted, phantoms).same_file


# Painting again


def test_a_picture_is_painted_again_with_the_same_bytes_in_place_and_as_a_stray(unbroken, stray, strict, phantoms):
    row = kept_row(unbroken)
    assert reproduce_image(unbroken / row.image, strict, phantoms) == Reproduction(row.id, True, 0, 0.0, {})
    assert reproduce_image(stray, strict, phantoms) == Reproduction(row.id, True, 0, 0.0, {})


def test_a_preview_is_painted_again_with_what_lies_beside_its_set(unbroken, strict, phantoms, tmp_path):
    for name, folder in (("synthetic", unbroken), ("model", strict), ("data", phantoms)):
        shutil.copytree(folder, tmp_path / name)
    preview = next(row for row in read_manifest(unbroken) if row.preview)
    assert reproduce_image(tmp_path / "synthetic" / preview.preview).same_file


@pytest.mark.slow
def test_several_lesions_of_one_picture_are_painted_again_together(fitted, phantoms, tmp_path):
    config = CONFIG.model_copy(update={"count": 2, "gate": "off", "lesions_per_case": 2, "shard_size": 2})
    generate(fitted, phantoms, tmp_path / "set", config)
    rows = read_manifest(tmp_path / "set")
    joined = next(row for row in rows if row.shown_in)
    path = tmp_path / "set" / rows[joined.shown_in].image
    origin = read_origin(path)
    assert [request.id for request in origin.requests] == [joined.shown_in, joined.id]
    assert explain_image(path).origin == origin and reproduce_image(path, fitted, phantoms).same_file


def test_pictures_of_other_processors_may_differ_by_rounding_alone():
    elsewhere = {"processor": ("Linux x86_64 AVX2", "Linux x86_64 AVX512")}
    assert not Reproduction("a", False, 1, 0.001, {}).passed
    assert Reproduction("a", False, 1, 0.001, elsewhere).passed
    assert not Reproduction("a", False, 200, 0.001, elsewhere).passed
    assert Reproduction("a", False, 0, 0.0, {}).passed


def test_what_is_not_what_it_was_is_refused_by_its_option(unbroken, stray, strict, fitted, phantoms, tmp_path):
    with pytest.raises(ConfigError, match="add --model MODEL of"):
        reproduce_image(stray)
    with pytest.raises(ConfigError, match="add --data DATA of"):
        reproduce_image(stray, strict)
    with pytest.raises(ConfigError, match="name the right one with --model"):
        reproduce_image(stray, fitted, phantoms)
    data = shutil.copytree(phantoms, tmp_path / "data")
    case = read_dataset(data).split("train")[2]
    write_png(case.mask, 255 * case.read_mask()[::-1].astype("uint8"))
    with pytest.raises(ModelError, match=case.id):
        reproduce_image(stray, strict, data)
    with pytest.raises(DataError, match="is a mask; name the picture"):
        reproduce_image(unbroken / kept_row(unbroken).mask)


def test_the_commands_print_plain_words_json_and_the_right_status(unbroken, stray, strict, phantoms, capsys):
    row = kept_row(unbroken)
    main(["explain", str(stray)])
    out = capsys.readouterr().out
    assert "figure 1.png is synthetic: a picture painted by diffaug, " + row.id in out
    for part in (row.request.background, row.request.prompt, str(row.request.seed), row.model, versions()["code"]):
        assert part in out
    assert f"Next: diffaug reproduce '{stray}' --model MODEL --data DATA" in out
    main(["explain", str(stray), "--in", str(unbroken), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["row"]["decision"] == "kept" and found["state"] == "same" and found["origin"]["synthetic"] is True
    words = ["reproduce", str(stray), "--model", str(strict), "--data", str(phantoms)]
    main(words)
    assert "all pixels are equal, and the file is the same, byte for byte." in capsys.readouterr().out
    pixels, texts = read_image(stray), read_origin(stray).texts()
    pixels[3, 4, 0] ^= 2
    write_png(stray, pixels, texts=texts)
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    assert (
        end.value.code == 1
        and out == ""
        and err.count("\n") == 1
        and "difference of a pixel is 2 of 255, and 0.01 %" in err
    )


def test_hidden_characters_of_a_prompt_do_not_reach_the_terminal(stray, capsys):
    origin = read_origin(stray)
    hostile = tuple(replace(each, prompt="\x1b[2J\u202epolyp\n") for each in origin.requests)
    write_png(stray, np.zeros((4, 4, 3), np.uint8), texts=replace(origin, requests=hostile).texts())
    main(["explain", str(stray)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and r"\x1b[2J\u202epolyp\n" in out


def test_an_older_picture_is_explained_from_its_set(unbroken, strict, phantoms, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "set")
    row = kept_row(out)
    pixels = read_image(out / row.image)
    write_png(out / row.image, pixels)
    manifest = (out / "manifest.jsonl").read_text(encoding="utf-8")
    (out / "manifest.jsonl").write_text(
        manifest.replace(row.image_digest, digest_of_file(out / row.image)), encoding="utf-8"
    )
    found = explain_image(out / row.image)
    assert not found.marked and found.state == "same" and isinstance(found.origin, Origin)
    again = reproduce_image(out / row.image, strict, phantoms)
    assert again.equal and again.passed and not again.same_file and "processor" in again.changed
    assert not shard_folder(out, 99).exists()
