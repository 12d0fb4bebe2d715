import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_folders import make_dataset, make_synthetic, write_set

from diffaug.augment.datasets import CaseDataset, SyntheticDataset, mix
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_manifest
from diffaug.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    data = make_dataset(folder / "data")
    return data, make_synthetic(folder / "synthetic", kept=4, negatives=2, data=data)


def test_an_item_is_the_case_with_channels_first(items, cases):
    item = items[3]
    assert np.array_equal((item["image"].permute(1, 2, 0) * 255).round().numpy(), cases[3].read_image())
    assert np.array_equal(item["label"].numpy() > 0, cases[3].read_masks())
    assert item["label"].dtype == item["image"].dtype == torch.float32 and (item["id"], item["synthetic"]) == (
        cases[3].id,
        False,
    )


def test_a_synthetic_set_gives_its_kept_cases_with_or_without_negatives(folders):
    whole, lesions = SyntheticDataset(folders[1]), SyntheticDataset(folders[1], negatives=False)
    assert [item["id"] for item in whole] == [f"synth-0000{index}" for index in (0, 1, 2, 3, 5, 6)]
    assert [item["id"] for item in lesions] == [f"synth-0000{index}" for index in range(4)]
    assert all(item["synthetic"] for item in whole)


def test_labels_that_are_known_in_part_are_left_out_unless_asked_for(folders, tmp_path):
    shutil.copytree(folders[1], tmp_path / "set")
    rows = list(read_manifest(tmp_path / "set"))
    region = "shards/00000/regions/synth-00005.png"
    write_set(tmp_path / "set", [replace(row, region=region) if row.id == "synth-00001" else row for row in rows])
    assert "synth-00001" not in [item["id"] for item in SyntheticDataset(tmp_path / "set")]
    whole = SyntheticDataset(tmp_path / "set", partly_known=True)
    known = {item["id"]: item["known"] for item in whole}
    assert known["synth-00000"].min() == 1 and known["synth-00000"].shape == (1, 40, 48)
    assert known["synth-00001"].sum() == 6 * 8
    with pytest.raises(DataError, match="known in part; leave such cases out"):
        CaseDataset(read_dataset(tmp_path / "set").cases)


def test_a_transform_makes_what_is_trained_on(folders):
    shown = SyntheticDataset(folders[1], transform=lambda item: item["image"].shape)
    assert shown[0] == (3, 40, 48)


def test_an_unfinished_set_and_cases_without_masks_are_refused(folders, tmp_path, phantoms):
    with pytest.raises(DataError, match="is a data set; check the path"):
        SyntheticDataset(folders[0])
    with pytest.raises(DataError, match="has none; pass dataset"):
        CaseDataset(read_dataset(phantoms).split("unannotated"))
    with pytest.raises(DataError, match="there is no case"):
        CaseDataset([])


@pytest.mark.parametrize(("ratio", "synthetic"), [(2, 12), (0.5, 3), (0, 0), (7, 42)])
def test_an_epoch_has_every_real_case_once_and_so_many_synthetic_ones(ratio, synthetic):
    sampler = mix(list(range(6)), list(range(100, 110)), ratio)
    for _ in range(3):
        drawn = [sampler.dataset[index] for index in sampler]
        counts = Counter(one for one in drawn if one >= 100)
        assert sorted(one for one in drawn if one < 100) == list(range(6))
        assert counts.total() == synthetic and len(drawn) == len(sampler)
        often = [counts[100 + index] for index in range(10)]
        assert max(often) - min(often) <= 2, "an epoch begins and ends inside a round of all"


def test_every_synthetic_case_is_drawn_before_one_comes_again_over_epochs():
    sampler = mix(list("abc"), list(range(10)), ratio=1)
    drawn = [sampler.dataset[index] for _ in range(20) for index in sampler]
    counts = Counter(one for one in drawn if isinstance(one, int))
    assert set(counts.values()) == {6} and len(counts) == 10


def test_an_epoch_depends_on_its_number_and_the_seed_alone():
    first, again, other = (mix(list(range(5)), list(range(9)), 2, seed=seed) for seed in (0, 0, 1))
    epochs = [list(first) for _ in range(3)]
    again.epoch = 2
    assert list(again) == epochs[2] != epochs[1]
    assert list(other) != epochs[0]


def test_a_mixture_of_nothing_is_refused():
    for real, synthetic, ratio in (([], [1], 2), ([1], [], 2), ([1], [1], -1)):
        with pytest.raises(ConfigError, match="use, for example, ratio=2"):
            mix(real, synthetic, ratio)


def test_a_worker_that_meets_a_damaged_file_raises_the_projects_own_error_in_the_loop(folders, tmp_path):
    from torch.utils.data import DataLoader

    shutil.copytree(folders[0], tmp_path / "data")
    (tmp_path / "data/images/train-3.png").write_bytes(b"no image")
    loader = DataLoader(CaseDataset(read_dataset(tmp_path / "data").annotated("train")), batch_size=None, num_workers=1)
    with pytest.raises(DataError, match="case train-3"):
        list(loader)


def test_a_loader_of_two_workers_keeps_the_ratio(folders):
    from torch.utils.data import DataLoader

    real = CaseDataset(read_dataset(folders[0]).annotated("train"), transform=lambda item: item["synthetic"])
    sampler = mix(real, SyntheticDataset(folders[1], transform=lambda item: item["synthetic"]), ratio=1.5)
    loader = DataLoader(sampler.dataset, batch_size=5, sampler=sampler, num_workers=2)
    for _ in range(2):
        seen = torch.cat(list(loader))
        assert (len(seen), int(seen.sum())) == (15, 9)
