import shutil

import numpy as np
import pytest

from diffaug.artifacts import read_json, read_jsonl
from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.patches import is_covered, regions_of
from diffaug.conditioning.placement import field_of_view, lost_from_view
from diffaug.config import GenerateConfig
from diffaug.data.folder import read_dataset
from diffaug.data.images import read_image, read_mask, write_png
from diffaug.errors import ConfigError, DataError, StorageError
from diffaug.painting.clearing import Remover
from diffaug.synthesis.remove import remove


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def coverable(phantoms):
    """Return the training cases whose lesions tissue of their frame can cover."""
    cases = read_dataset(phantoms).split("train")
    views = {case.id: field_of_view(case.read_image()) for case in cases}
    return [case for case in cases if is_covered(case.read_image(), case.read_mask(), views[case.id])]


def test_every_case_that_its_own_tissue_can_cover_becomes_a_case_with_an_empty_mask(removed, phantoms):
    sources, made = coverable(phantoms), read_dataset(removed).cases
    assert len(sources) >= 4
    others = [case.id for case in read_dataset(phantoms).split("train") if case not in sources]
    assert read_json(removed / "summary.json")["left_out"] == others
    assert [case.id for case in made] == [f"{case.id}-removed" for case in sources]
    assert [case.group for case in made] == [case.group for case in sources]
    for case in made:
        assert not np.asarray(read_mask(case.mask)).any()
        assert case.prompt == "normal mucosa"


def test_the_lesion_is_repainted_and_nothing_outside_its_region_changes(removed, phantoms):
    for source, made in zip(coverable(phantoms), read_dataset(removed).cases, strict=True):
        before, after, mask = source.read_image(), read_image(made.image), source.read_mask()
        whole = np.logical_or.reduce([region for _, region in regions_of(mask, field_of_view(before))])
        assert np.array_equal(before[~whole], after[~whole])
        assert (before[mask] != after[mask]).any()


def dark_ellipse(phantoms, to, case):
    """Make one case of a copy a speckled grey frame with a smooth dark ellipse for a lesion, which looks like a box."""
    data = shutil.copytree(phantoms, to)
    found = read_dataset(data)[case]
    height, width = found.read_mask().shape
    y, x = np.mgrid[:height, :width]
    mask = ((y - height / 2) / 24) ** 2 + ((x - width / 2) / 34) ** 2 <= 1
    speckle = np.random.default_rng(0).normal(150, 25, mask.shape)
    grey = np.where(mask, 70, speckle.clip(60, 230)).astype(np.uint8)
    write_png(found.image, np.repeat(grey[:, :, None], 3, 2))
    write_png(found.mask, mask.astype(np.uint8) * 255)
    return data


def test_a_lesion_that_looks_like_no_tissue_is_left_out_and_named(fitted, phantoms, tmp_path):
    case = read_dataset(phantoms).split("train")[0].id
    data = dark_ellipse(phantoms, tmp_path / "data", case)
    hidden = read_dataset(data)[case]
    assert lost_from_view(hidden.read_mask(), field_of_view(hidden.read_image())).any()
    summary = remove(fitted, data, tmp_path / "out")
    assert case in summary.left_out and summary.cases == 8 - len(summary.left_out)
    drawer = RequestDrawer(read_dataset(data).split("train"), 0, GenerateConfig(place="removed", negatives=0.0))
    assert case not in {drawer.draw(index).background for index in range(12)}


def test_lesions_partly_out_of_view_are_told_from_lost_ones():
    lesions, field = np.zeros((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
    lesions[2:10, 2:10] = lesions[20:28, 18:26] = lesions[30:38, 30:38] = True
    field[:, 21:] = True  # five of eight columns of the second
    lost = lost_from_view(lesions, field)
    assert lost[2:10, 2:10].all() and int(lost.sum()) == 64
    lesions[0, 0] = True  # of a JPEG mask, say
    assert not lost_from_view(lesions, field)[0, 0]
    assert not lost_from_view(np.zeros_like(field), field).any()


def test_regions_hold_every_lesion_once_and_do_not_touch():
    mask = np.zeros((100, 100), dtype=bool)
    mask[10:20, 10:20] = mask[22:30, 10:20] = mask[60:90, 60:90] = True
    found = regions_of(mask, np.ones_like(mask))
    assert [int(lesion.sum()) for lesion, _ in found] == [900, 180]  # the two close ones share a region
    assert np.array_equal(sum(lesion.astype(int) for lesion, _ in found), mask)
    assert max(sum(region.astype(int) for _, region in found).ravel()) == 1
    assert all((region & lesion).sum() == lesion.sum() for lesion, region in found)


def test_a_margin_stays_inside_the_field_of_view_and_a_lesion_does_not():
    mask, field = np.zeros((60, 60), dtype=bool), np.zeros((60, 60), dtype=bool)
    mask[20:40, 20:40], field[:, 25:] = True, True
    ((lesion, region),) = regions_of(mask, field)
    assert not (region & ~field & ~lesion).any()


def test_a_margin_cut_off_from_its_lesion_by_the_border_is_left_alone():
    mask, field = np.zeros((60, 60), dtype=bool), np.ones((60, 60), dtype=bool)
    mask[20:40, 20:40], field[:, 41] = True, False  # the margin goes on at column 42
    ((lesion, region),) = regions_of(mask, field)
    assert np.array_equal(lesion, mask)
    assert not region[:, 41:].any()


def test_a_run_killed_between_cases_and_run_again_equals_an_unbroken_one(
    removed, fitted, phantoms, tmp_path, monkeypatch
):
    real, seen = Remover.remove, []

    def killed(self, case):
        seen.append(case.id)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, case)

    monkeypatch.setattr(Remover, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(fitted, phantoms, tmp_path / "set")
    assert not (tmp_path / "set" / "summary.json").exists()
    remove(fitted, phantoms, tmp_path / "set")
    assert len(seen) == len(set(seen)) + 1
    assert files_of(tmp_path / "set") == files_of(removed)


def test_rows_tell_what_the_validator_found_before_and_after(removed):
    rows, summary = read_jsonl(removed / "manifest.jsonl"), read_json(removed / "summary.json")
    regions = [region for row in rows for region in row["regions"]]
    assert summary["regions"] == len(regions) >= summary["cases"] == len(rows)
    for name in ("found_before", "found_after"):
        values = [region[name] for region in regions]
        assert all(0 <= value <= 1 for value in values)
        assert summary[name] == round(float(np.median(values)), 4)


def test_another_seed_needs_another_folder(removed, fitted, phantoms):
    with pytest.raises(ConfigError, match="made with seed = 0, not 1"):
        remove(fitted, phantoms, removed, seed=1)


def test_a_data_set_without_annotations_is_refused_before_anything_is_written(fitted, phantoms, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    table = copy / "cases.csv"
    table.write_text(table.read_text().replace(",train,", ",val,"))
    with pytest.raises(DataError, match="has none"):
        remove(fitted, copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lost_image_is_made_again(removed, fitted, phantoms, tmp_path):
    copy = tmp_path / "set"
    shutil.copytree(removed, copy)
    read_dataset(copy).cases[0].image.unlink()
    remove(fitted, phantoms, copy)
    assert files_of(copy) == files_of(removed)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_torn_files_are_made_again(removed, fitted, phantoms, tmp_path, share):
    copy = shutil.copytree(removed, tmp_path / "set")
    for number, kind in enumerate(("images", "masks", "rows")):
        torn = sorted((copy / kind).iterdir())[number]
        torn.write_bytes(torn.read_bytes()[: int(share * torn.stat().st_size)])
    remove(fitted, phantoms, copy)
    assert files_of(copy) == files_of(removed)


def test_a_full_disk_is_one_line(fitted, phantoms, tmp_path, full_disk):
    with full_disk(), pytest.raises(StorageError, match="free some space"):
        remove(fitted, phantoms, tmp_path / "out")


def test_a_case_without_a_lesion_is_left_out(removed, fitted, phantoms, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(phantoms, copy)
    first = coverable(copy)[0]
    write_png(first.mask, np.zeros_like(first.read_mask(), dtype=np.uint8))
    summary = remove(fitted, copy, tmp_path / "set")
    assert summary.cases == len(read_dataset(removed).cases) - 1


def test_a_lesion_that_no_tissue_of_its_frame_covers_is_refused(fitted, phantoms, tmp_path):
    data = shutil.copytree(phantoms, tmp_path / "data")
    for case in read_dataset(data).split("train"):
        write_png(case.mask, np.full_like(case.read_mask(), 255, dtype=np.uint8))
    with pytest.raises(DataError, match="that the rest of their frame can cover"):
        remove(fitted, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
