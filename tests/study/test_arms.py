import re
from dataclasses import asdict, replace

import pytest
from study_folders import make_dataset, make_synthetic

from diffaug.artifacts import digest_of_value
from diffaug.config import StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.manifest import read_rows, write_rows
from diffaug.errors import ConfigError, DataError, StudyError
from diffaug.study.arms import ARMS, SELF_TRAINED, build_arms, check_size, default_arms, parse_arm, parse_arms
from diffaug.study.inputs import PaintedRows, read_inputs, read_set
from diffaug.study.study import run_study

CONFIG = StudyConfig(synthetic_per_real=0.5, batch_size=4)


def built(names, train, sets, config=CONFIG, **more):
    return build_arms([parse_arm(name) for name in names], train, PaintedRows(tuple(sets)), config, **more)


@pytest.mark.parametrize(
    ("name", "kind", "ratio", "derived", "painted"),
    [
        ("real", "real", None, False, False),
        ("pseudo-label", "pseudo-label", None, True, False),
        ("unfiltered@0.5", "unfiltered", 0.5, False, True),
        ("validated+pseudo-label", "validated", None, True, True),
        ("selected@2+pseudo-label", "selected", 2.0, True, True),
        ("mean-teacher", "mean-teacher", None, False, False),
        ("validated+mean-teacher", "validated", None, False, True),
        ("selected@2+mean-teacher", "selected", 2.0, True, True),
        ("no-negatives", "no-negatives", None, True, True),
    ],
)
def test_the_name_of_an_arm_says_what_it_trains_on(name, kind, ratio, derived, painted):
    spec = parse_arm(name)
    assert (spec.name, spec.kind, spec.ratio, spec.is_derived, spec.is_painted) == (name, kind, ratio, derived, painted)
    assert spec.takes_labels == name.endswith("pseudo-label") and spec.meaning
    assert spec.has_teacher == name.endswith("mean-teacher")
    assert spec.takes_unannotated == (spec.takes_labels or spec.has_teacher)
    assert spec.without_unannotated == (name if kind in SELF_TRAINED else name.partition("+")[0])
    assert spec.painted_per_real(CONFIG) == (ratio or CONFIG.synthetic_per_real)


@pytest.mark.parametrize(
    "name",
    [
        "magic", "real@2", "selected@0", "selected@much", "oracle+pseudo-label", "pseudo-label+pseudo-label",
        "mean-teacher@2", "selected+", "selected+real", "real+mean-teacher", "selected+pseudo-label+mean-teacher",
    ],
)  # fmt: skip
def test_an_unknown_arm_is_refused_with_the_valid_names(name):
    with pytest.raises(ConfigError, match=rf"real, copy-paste, pseudo-label, .*, oracle: it is '{re.escape(name)}'"):
        parse_arms(["real", name])


@pytest.mark.parametrize("names", [(), ("real", "real")])
def test_arms_are_named_once_and_at_least_one(names):
    with pytest.raises(ConfigError):
        parse_arms(names)


def test_every_arm_trains_on_the_same_real_cases_except_the_oracle(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_set(make_synthetic(tmp_path / "all", paint_all=True))]
    found = built(tuple(ARMS), train, sets, full=train[:3], unannotated=train[3:])
    arms = {arm.name: arm for arm in found}
    assert list(arms) == list(ARMS)
    assert all(arm.real == train for name, arm in arms.items() if name != "oracle")
    assert arms["oracle"].real == train[:3]
    assert not arms["real"].pool and not arms["copy-paste"].pool and arms["copy-paste"].paste
    assert arms["pseudo-label"].pool == train[3:]  # to choose from
    assert arms["mean-teacher"].taught == train[3:] and not arms["mean-teacher"].pool


def test_painted_arms_take_as_many_cases_as_their_ratio_says(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_set(make_synthetic(tmp_path / "all", kept=9, paint_all=True))]
    names = ("unfiltered@0.5", "unfiltered@1", "validated@1.5", "random-kept@0.5", "fixed-threshold@0.5")
    sizes = {arm.name: len(arm.pool) for arm in built(names, train, sets)}
    assert sizes == dict(zip(names, (3, 6, 9, 3, 3), strict=True))


def test_one_set_serves_every_painted_arm(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_set(make_synthetic(tmp_path / "all", kept=4, paint_all=True))]  # the fifth row is turned down
    config = CONFIG.model_copy(update={"synthetic_per_real": 1.0, "fixed_threshold": 0.5})
    arms = built(("unfiltered", "validated", "fixed-threshold"), train, sets, config)
    unfiltered, validated, fixed = ([case.id for case in arm.pool] for arm in arms)
    assert unfiltered == [f"synth-{index:05d}" for index in range(5)]
    assert validated == fixed == unfiltered[:4]


def test_negatives_join_painted_lesions_and_some_are_held_out(tmp_path, dataset):
    train = read_dataset(dataset).split("train")
    sets = [read_set(make_synthetic(tmp_path / "all", kept=4, negatives=8))]
    for share, expected in ((0.0, 0), (0.5, 2), (1.5, 6), (9.0, 6)):  # of 8 negatives 2 are held out
        config = CONFIG.model_copy(update={"synthetic_per_real": 1.0, "negatives": share})
        (arm,) = built(("validated",), train, sets, config)
        assert len(arm.pool) == 4 + expected


def test_without_names_a_study_has_the_arms_that_its_inputs_allow(tmp_path):
    stopped = read_set(make_synthetic(tmp_path / "stopped"))
    assert default_arms(()) == ("real", "copy-paste")
    assert default_arms(stopped.rows) == ("real", "copy-paste", "selected")


@pytest.mark.parametrize(
    ("arm", "fix"),
    [
        ("validated", "--synthetic"),
        ("oracle", "--oracle"),
        ("pseudo-label", "unannotated images"),
        ("mean-teacher", "unannotated images"),
    ],
)
def test_an_arm_without_its_inputs_says_what_to_give(dataset, arm, fix):
    with pytest.raises(StudyError, match=fix):
        built(("real", arm), read_dataset(dataset).split("train"), [])


def test_an_arm_that_chooses_among_what_the_gate_stopped_is_refused_without_it(dataset, synthetic):
    train = read_dataset(dataset).split("train")
    with pytest.raises(StudyError, match=r"1 of .*synthetic were stopped by the gate; .*--paint-all"):
        built(("unfiltered",), train, [read_set(synthetic)])


def test_a_negative_that_was_turned_down_is_no_lesion_that_was_stopped(tmp_path, dataset):
    folder = make_synthetic(tmp_path / "all", negatives=2, paint_all=True)
    *rows, last = read_rows(folder / "manifest.jsonl")
    write_rows(folder / "manifest.jsonl", [*rows, replace(last, decision="rejected", image="", mask="")])
    train = read_dataset(dataset).split("train")
    (arm,) = built(("unfiltered",), train, [read_set(folder)])
    assert len(arm.pool) == 3 + 1


def test_an_arm_that_needs_the_baseline_needs_the_arm_real():
    with pytest.raises(StudyError, match="add real"):
        parse_arms(("selected",))


def test_an_arm_with_fewer_cases_than_a_batch_is_refused_by_name(dataset):
    train = read_dataset(dataset).split("train")
    (arm,) = built(("real",), train, [])
    check_size(arm, 6)
    with pytest.raises(StudyError, match=r"real has 6, study\.batch_size is 7; lower"):
        check_size(arm, 7)


def test_arms_take_from_every_set_in_proportion_to_its_size(tmp_path, dataset):
    first, second = make_synthetic(tmp_path / "a", kept=6), make_synthetic(tmp_path / "b", kept=12, negatives=4)
    sets = (read_set(first, 0), read_set(second, 1))
    config = StudyConfig(synthetic_per_real=1.0)
    train = read_dataset(dataset).split("train")
    (arm,) = built(("validated",), train, sets, config)
    lesions = [case.id for case in arm.pool[: len(train)]]
    assert sum(case.startswith("2:") for case in lesions) == 4 and len(lesions) == 6
    (alone,) = built(("validated",), train, sets[:1], config)
    assert [case.id for case in alone.pool] == [row.id for row in sets[0].rows[:6]]  # one set keeps its order


def test_sets_may_repeat_ids(tmp_path, dataset):
    sets = [read_set(make_synthetic(tmp_path / name), number) for number, name in enumerate(("one", "two"))]
    config = CONFIG.model_copy(update={"synthetic_per_real": 2.0})
    (arm,) = built(("validated",), read_dataset(dataset).split("train"), sets, config)
    assert len({case.id for case in arm.pool}) == len({case.image for case in arm.pool}) == 8


@pytest.mark.parametrize("name", ["manifest.jsonl", "summary.json"])
def test_an_unfinished_synthetic_set_is_refused(synthetic, name):
    (synthetic / name).unlink()
    with pytest.raises(DataError, match="must be finished"):
        read_set(synthetic)


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_painted_file_that_was_changed_is_refused_before_anything_is_trained(tmp_path, dataset, synthetic, kind):
    row = read_rows(synthetic / "manifest.jsonl")[0]
    path = synthetic / getattr(row, kind)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StudyError, match=f"{row.id}.png is not the file that manifest.jsonl names"):
        run_study(dataset, tmp_path / "study", [synthetic], StudyConfig())
    assert not (tmp_path / "study").exists()


def test_a_set_of_before_there_were_digests_of_regions_keeps_the_digest_that_studies_know(dataset, synthetic):
    rows = [asdict(row) for row in read_rows(synthetic / "manifest.jsonl")]
    before = [{name: value for name, value in row.items() if name != "region_digest"} for row in rows]
    found = read_inputs(dataset, [synthetic], ["test"]).digests(with_unannotated=False)
    assert found["synthetic"] == [digest_of_value(before)]


def test_a_split_without_cases_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "data", test=0)
    with pytest.raises(StudyError, match=r"split test.*--folds 5 instead of --synthetic"):
        read_inputs(folder, [], ["test"])


def test_the_training_cases_are_never_tested_on(dataset):
    with pytest.raises(StudyError, match="does not train on"):
        read_inputs(dataset, [], ["train"])


def test_another_data_set_is_tested_on_under_its_own_name(tmp_path, dataset):
    other = make_dataset(tmp_path / "other", train=2, test=3, seed=9)
    inputs = read_inputs(dataset, [], ["test", str(other)])
    assert [case.id for case in inputs.test][-3:] == ["other:test-0", "other:test-1", "other:test-2"]
    assert len(inputs.test) == 5 + 3


def test_test_folders_of_one_name_keep_their_cases_apart(tmp_path, dataset):
    folders = [str(make_dataset(tmp_path / one / "data", train=2, test=3, seed=9)) for one in "xy"]
    tested = read_inputs(dataset, [], folders).test
    assert [case.id for case in tested] == [f"{one}/data:test-{index}" for one in "xy" for index in range(3)]
    assert len({case.group for case in tested}) == 6
    with pytest.raises(StudyError, match="names one twice"):
        read_inputs(dataset, [], [folders[0], str(tmp_path / "x" / ".." / "x" / "data")])
    with pytest.raises(StudyError, match="names one twice"):
        read_inputs(dataset, [], ["test", "test"])


def test_a_refused_study_leaves_no_folder(tmp_path, dataset):
    leak = make_synthetic(tmp_path / "leak", sources=("test-0",))
    with pytest.raises(StudyError):
        run_study(dataset, tmp_path / "out", [leak], CONFIG)
    assert not (tmp_path / "out").exists()


def test_what_a_set_holds_beyond_its_count_is_not_trained_on(tmp_path):
    """`--count 3` keeps three cases: a fourth that the last shard accepted is `surplus`, and no case of the set."""
    train, found = read_dataset(make_dataset(tmp_path / "data")).split("train"), make_synthetic(tmp_path / "set")
    rows = [
        replace(row, decision="surplus") if row.id == "synth-00003" else row
        for row in read_rows(found / "manifest.jsonl")
    ]
    write_rows(found / "manifest.jsonl", rows)
    config = CONFIG.model_copy(update={"synthetic_per_real": 2.0})
    for arm in built(["validated", "selected", "no-negatives"], train, [read_set(found)], config):
        assert [case.id for case in arm.pool] == [f"synth-0000{index}" for index in range(3)]
    one = [replace(row, decision="surplus") for row in rows]
    assert default_arms(one) == ("real", "copy-paste")
