import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import diffaug.training.loop
from diffaug.artifacts import read_json
from diffaug.conditioning.grammar import words_in
from diffaug.conditioning.prompts import all_prompts
from diffaug.config import SamplerConfig
from diffaug.data.folder import read_dataset
from diffaug.data.images import write_png
from diffaug.data.seen import read_seen, sketches_of
from diffaug.data.split import folds_by_group
from diffaug.errors import ConfigError, DataError, DiffaugError, ModelError
from diffaug.models.checkpoints import find_checkpoint, read_words, verify
from diffaug.models.loading import PARTS, load_model
from diffaug.runfolder import held
from diffaug.training.fit import FitSummary, fit
from diffaug.training.painter_windows import divided, words_read
from diffaug.training.starting import load_base, untrained_around
from diffaug.training.trajectories import rare_classes
from diffaug.training.windows import Annotated
from diffaug.validator.calibration import Calibration
from diffaug.validator.latent_segmenter import load_segmenter


class Interruption(BaseException):
    pass


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.fixture
def copy(phantoms, tmp_path):
    """A copy of the phantoms that a test may change."""
    return shutil.copytree(phantoms, tmp_path / "copy")


def release_script():
    """The script that trains the shipped weights, as a module."""
    path = Path(__file__).parents[2] / "runs" / "release_weights.py"
    spec = importlib.util.spec_from_file_location("release_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_folder_holds_every_part_validators_and_thresholds(fitted, phantoms, tiny):
    assert verify(fitted)
    assert {path.name for path in fitted.iterdir()} - {".lock"} == {
        *PARTS,
        "calibration.json",
        "rules.json",
        "sampler.json",
        "digests.json",
        "fit.json",
        "model_index.json",
        "seen_images.npz",
        "training",
        "validator",
    }
    calibration = Calibration.load(fitted / "calibration.json")
    ids = {case.id for case in read_dataset(phantoms).split("train")}
    assert set(calibration.folds) == ids and set(calibration.folds.values()) == {0, 1}
    assert (calibration.steps, calibration.checks) == (4, (2, 4))
    assert load_segmenter(fitted / "validator" / "1").image.in_channels == tiny.codec.latent_channels
    assert not list((fitted / "training").glob("*.checkpoint"))  # checkpoints are gone


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_everybody_may_read_a_model_who_may_read_a_new_file(fitted, tmp_path):
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in fitted.rglob("*") if path.is_file()} == {usual}


def test_a_model_says_what_it_has_seen(fitted, phantoms):
    dataset, seen = read_dataset(phantoms), read_seen(fitted)
    cases = (*dataset.split("train"), *dataset.split("unannotated"))
    assert seen.complete and seen.own.all() and seen.annotated.tolist() == [True] * 8 + [False] * 2
    assert all(seen.holds(sketches_of(case.read_image() for case in cases)))


def test_a_model_holds_the_words_of_its_training_prompts(fitted):
    words = read_words(fitted)
    assert words >= {"normal", "mucosa", "lesion", "medium"}
    assert words <= frozenset().union(*(words_in(prompt) for prompt in all_prompts()))
    assert "tokenizer/words.json" in read_json(fitted / "digests.json")


def test_words_read_are_those_that_fit_into_the_text_encoder(untrained):
    tokens = untrained.tokens(["a small low-contrast polyp", "a small low-contrast polyp", "lesion " * 40 + "rectum"])
    windows = SimpleNamespace(tokens=tokens)
    assert words_read(untrained, [windows]) == {"a", "small", "low", "contrast", "polyp", "lesion"}
    assert untrained.reads("lesion " * 30) and not untrained.reads("lesion " * 31)


def test_a_fitted_model_is_a_painter_of_the_config(fitted, tiny):
    model = load_model(fitted)
    assert (model.window, model.cell, model.latent_channels, model.classes) == (64, 8, 4, 1)
    assert tuple(model.unet.config.block_out_channels) == tiny.denoiser.widths


def test_a_fit_run_again_returns_at_once_with_the_same_digests(fitted, phantoms, tiny, monkeypatch):
    def refuse(*_):
        raise Interruption

    monkeypatch.setattr(diffaug.training.loop, "generator_of", refuse)
    before = (fitted / "digests.json").read_bytes()
    summary = fit(phantoms, fitted, tiny, base=None)
    assert (fitted / "digests.json").read_bytes() == before
    assert summary == FitSummary.read(fitted)
    assert (summary.annotated, summary.unannotated) == (8, 2)
    assert (summary.realism is None) == bool(summary.no_critic)


@pytest.fixture(scope="module")
def disturbed(phantoms, tiny, tmp_path_factory):
    """A data set whose val and test cases are no images, a model fitted on it where a run had died, and its summary."""
    folder = tmp_path_factory.mktemp("disturbed")
    data = shutil.copytree(phantoms, folder / "data")
    columns = (data / "cases.csv").read_text().splitlines()[0].count(",") + 1
    for split in ("val", "test"):
        (data / "images" / f"{split}-0.png").write_bytes(b"no image")
        (data / "masks" / f"{split}-0.png").write_bytes(b"no mask")
        with (data / "cases.csv").open("a") as table:
            row = [f"{split}-0", f"images/{split}-0.png", f"masks/{split}-0.png", f"{split}-0", split]
            table.write(",".join(row + [""] * (columns - len(row))) + "\n")
    (folder / "model" / "training").mkdir(parents=True)
    (folder / "model" / ".fit.json.7.partial").write_text("{")
    return data, folder / "model", fit(data, folder / "model", tiny, base=None)


def test_a_summary_is_the_same_when_it_is_made_and_when_it_is_read(disturbed, tiny):
    data, model, made = disturbed
    assert made == fit(data, model, tiny, base=None)
    assert set(made.scores) <= {"small", "medium", "large"}


def test_checkpoints_that_a_fit_left_when_it_was_killed_at_its_end_are_removed(fitted, phantoms, tiny, tmp_path):
    model = Path(shutil.copytree(fitted, tmp_path / "model"))
    (model / "training" / "codec.checkpoint").write_bytes(b"of the last iteration")
    fit(phantoms, model, tiny, base=None)
    assert not list(model.rglob("*.checkpoint"))


@pytest.mark.parametrize("torn", [b"", b"{}", b"[]", b'{"codec": 1}', b'{"notices": {}}'])
def test_a_torn_log_or_summary_of_a_finished_fit_is_one_line(fitted, phantoms, tiny, tmp_path, torn):
    for name in ("codec.log.jsonl", "summary.json"):
        model = Path(shutil.copytree(fitted, tmp_path / name))
        (model / "training" / name).write_bytes(torn)
        with pytest.raises(DiffaugError, match=name):
            fit(phantoms, model, tiny, base=None)


@pytest.mark.slow  # test_loop.py kills one training, the part of a fit that resumes, by default
def test_a_fit_killed_again_and_again_equals_an_unbroken_one(fitted, phantoms, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(diffaug.training.loop, "CHECKPOINT_SECONDS", -1.0)
    generator_of, kills = diffaug.training.loop.generator_of, 0

    def run(iterations):
        """Run a fit that dies before its n-th iteration."""
        left = [iterations]

        def counted(*key):
            left[0] -= 1
            if left[0] < 0:
                raise Interruption
            return generator_of(*key)

        monkeypatch.setattr(diffaug.training.loop, "generator_of", counted)
        fit(phantoms, tmp_path / "model", tiny, base=None)

    while True:  # 10 iterations of the codec, 4 of the painter, 3 of each validator
        try:
            run(iterations=6)
            break
        except Interruption:
            kills += 1
            assert not (tmp_path / "model" / "digests.json").exists()
            (tmp_path / "model" / ".fit.json.7.partial").write_text("{")
            with pytest.raises(ModelError, match=r"fit has finished: .* was stopped"):
                verify(tmp_path / "model")
    assert kills == 3
    assert (tmp_path / "model" / "digests.json").read_bytes() == (fitted / "digests.json").read_bytes()


def test_what_a_run_leaves_that_died_before_its_settings_is_no_hindrance(disturbed):
    _, model, made = disturbed
    assert verify(model) and made.annotated == 8


@pytest.mark.parametrize("change", ["config", "seed", "data", "mask", "base"])
def test_a_model_folder_fitted_with_other_settings_is_refused(fitted, copy, tiny, change):
    config, seed, base = tiny, 0, None
    if change == "config":
        config = tiny.model_copy(update={"sampler": SamplerConfig(steps=5)})
    elif change == "seed":
        seed = 1
    elif change == "base":
        base = fitted
    elif change == "data":
        (copy / "cases.csv").write_text((copy / "cases.csv").read_text().replace("train-3,", "train-33,", 1))
    else:
        case = read_dataset(copy).split("train")[2]
        write_png(case.mask, 255 * (~case.read_mask()).astype("uint8"))
    named = {"mask": "data", "config": "sampler.steps"}.get(change, change)
    with pytest.raises(ConfigError, match=f"made with {named} = ") as error:
        fit(copy, fitted, config, base=base, seed=seed)
    assert "\n" not in str(error.value)
    assert verify(fitted)


def test_a_copy_of_the_data_is_the_same_data(fitted, copy, tiny):
    assert fit(copy, fitted, tiny, base=None).annotated == 8


def test_an_altered_model_is_told_when_its_fit_is_run_again(fitted, phantoms, tiny, tmp_path):
    model = shutil.copytree(fitted, tmp_path / "model")
    (model / "unet" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="was altered"):
        fit(phantoms, model, tiny, base=None)


@pytest.mark.parametrize("damaged", [b"", b"\0" * 20, b'{"painter.log.jsonl": "12'])
def test_damaged_digests_of_the_logs_are_told_when_the_fit_is_run_again(fitted, phantoms, tiny, tmp_path, damaged):
    model = shutil.copytree(fitted, tmp_path / "model")
    (model / "training" / "digests.json").write_bytes(damaged)
    with pytest.raises(ModelError, match=r"digests\.json is damaged; .*remove it if you can do without"):
        fit(phantoms, model, tiny, base=None)
    (model / "training" / "digests.json").unlink()
    assert fit(phantoms, model, tiny, base=None).annotated == 8


def test_a_folder_of_other_files_is_refused(phantoms, tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        fit(phantoms, tmp_path, tiny, base=None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_base_that_is_no_model_is_refused(phantoms, tiny, tmp_path):
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        fit(phantoms, tmp_path / "model", tiny, base=tmp_path / "nowhere")
    assert not (tmp_path / "model").exists()


def unlooked(tiny):
    """The same fit without looks on the way and without a critic, which take most of its time."""
    return tiny.model_copy(update={"validator": tiny.validator.model_copy(update={"trajectories": 0})})


def test_a_base_gives_its_architecture_and_its_latents(fitted, phantoms, tiny, tmp_path):
    wider = tiny.denoiser.model_copy(update={"widths": (32, 64)})
    other = unlooked(tiny).model_copy(update={"denoiser": wider})
    fit(phantoms, tmp_path / "model", other, base=fitted)
    first, second = load_model(fitted), load_model(tmp_path / "model")
    assert second.unet.config.block_out_channels == first.unet.config.block_out_channels
    assert same(first.codec.encoder, second.codec.encoder)
    assert second.codec.config.scaling_factor == first.codec.config.scaling_factor


def test_too_few_annotated_cases_are_refused_before_any_work(copy, tiny, tmp_path):
    table = (copy / "cases.csv").read_text().splitlines(keepends=True)
    (copy / "cases.csv").write_text(
        "".join(line for line in table if not line.startswith(("train-5", "train-6", "train-7")))
    )
    with pytest.raises(DataError, match="has 5"):
        fit(copy, tmp_path / "model", tiny, base=None)
    assert not (tmp_path / "model").exists()


def test_more_folds_than_groups_are_refused_before_any_work(copy, tiny, tmp_path):
    table = (copy / "cases.csv").read_text().splitlines(keepends=True)
    rows = [line.split(",") for line in table[1:]]
    (copy / "cases.csv").write_text(table[0] + "".join(",".join([*row[:3], "one patient", *row[4:]]) for row in rows))
    with pytest.raises(DataError, match="2 folds of 1 groups"):
        fit(copy, tmp_path / "model", tiny, base=None)
    assert not list((tmp_path / "model").rglob("*.jsonl")) and not (tmp_path / "model" / "fit.json").exists()


def test_an_empty_mask_is_told_before_any_work(copy, tiny, tmp_path):
    case = read_dataset(copy).split("train")[4]
    write_png(case.mask, 0 * case.read_mask().astype("uint8"))
    with pytest.raises(DataError, match=case.id):
        fit(copy, tmp_path / "model", tiny, base=None)
    assert not (tmp_path / "model" / "fit.json").exists()


def test_cases_without_any_lesion_free_tissue_can_be_fitted(copy, tiny, tmp_path):
    for case in read_dataset(copy).split("train"):
        mask = case.read_mask()
        mask[8:-8, 8:-8] = True
        write_png(case.mask, mask.astype("uint8") * 255)
    assert fit(copy, tmp_path / "model", tiny, base=None).lesions["large"] == 8


def test_val_and_test_are_never_opened(disturbed):
    data, _, made = disturbed
    assert [len(read_dataset(data).split(split)) for split in ("val", "test")] == [1, 1]
    assert made.annotated == 8


def test_a_prior_is_trained_on_tissue_alone(fitted, frames, tiny, tmp_path):
    codec, train_prior = load_model(fitted).codec, release_script().train_prior
    prior = train_prior(untrained_around(codec, tiny, 0), frames, tmp_path, tiny.denoiser, 8)
    assert (prior.window, prior.classes) == (64, 1)
    assert (tmp_path / "prior.log.jsonl").is_file()
    again = train_prior(untrained_around(codec, tiny, 0), frames, tmp_path / "again", tiny.denoiser, 8)
    assert same(prior.unet, again.unet)


def test_cases_that_choose_the_checkpoint_do_not_train_the_painter(annotated):
    seen, kept = divided(annotated, 0, 0.25)
    assert len(kept) == 2
    assert sorted(case.case.id for case in (*seen, *kept)) == sorted(case.case.id for case in annotated)
    assert not {case.case.group for case in seen} & {case.case.group for case in kept}
    assert divided(annotated, 0, 0.1) == (annotated, [])


@pytest.mark.parametrize("count", [20, 23, 24, 25, 31, 34, 50, 98])
def test_cases_of_one_frame_each_are_divided_as_folds_are(annotated, count):
    """Fold 0 chooses the checkpoint, as of every fit that is recorded."""
    cases = [
        replace(annotated[0], case=replace(annotated[0].case, id=f"c{number}", group=f"c{number}"))
        for number in range(count)
    ]
    folds = folds_by_group({case.case.id: case.case.group for case in cases}, 10, 7)
    assert [case.case.id for case in divided(cases, 7, 0.1)[1]] == [name for name, fold in folds.items() if fold == 0]


def test_a_long_sequence_does_not_choose_the_checkpoint_and_frames_without_lesions_neither(annotated):
    grouped = [
        replace(case, case=replace(case.case, group="long" if number < 4 else case.case.group))
        for number, case in enumerate(annotated)
    ]
    for seed in range(5):
        seen, kept = divided(grouped, seed, 0.25)
        assert len(kept) == 2 and "long" not in {case.case.group for case in kept}
    free = [replace(case, lesions=[], attributes=[]) for case in annotated[:4]]
    for seed in range(5):
        seen, kept = divided([*free, *annotated[4:]], seed, 0.5)
        assert kept and all(case.lesions for case in kept) and len(seen) + len(kept) == len(annotated)


def test_two_processes_do_not_fit_one_model(phantoms, tiny, tmp_path):
    with held(tmp_path / "model"), pytest.raises(ConfigError, match="one process works in a folder"):
        fit(phantoms, tmp_path / "model", tiny, base=None)
    assert [path.name for path in (tmp_path / "model").iterdir()] == [".lock"]


@pytest.mark.parametrize("sequences", [1, 2, 3])
def test_few_sequences_choose_a_checkpoint_with_one_of_them_or_not_at_all(annotated, sequences):
    grouped = [
        replace(case, case=replace(case.case, group=f"sequence-{number % sequences}"))
        for number, case in enumerate(annotated)
    ]
    seen, kept = divided(grouped, 0, 0.25)
    assert len({case.case.group for case in kept}) == (0 if sequences == 1 else 1)
    assert len({case.case.group for case in seen}) == max(1, sequences - 1)


def with_rank(config, rank):
    return config.model_copy(update={"denoiser": config.denoiser.model_copy(update={"lora_rank": rank})})


def test_low_rank_updates_of_a_compact_model_are_refused_before_any_work(fitted, phantoms, tiny, tmp_path):
    for base in (None, fitted):
        with pytest.raises(ConfigError, match="lora_rank is 4 with another base"):
            fit(phantoms, tmp_path / "model", with_rank(tiny, 4), base=base)
    assert not (tmp_path / "model").exists()


# Several classes


def test_a_base_of_one_class_is_fitted_to_two_and_one_of_two_not_to_one(
    fitted, fitted_eyes, eyes, phantoms, tiny, tmp_path
):
    fit(eyes, tmp_path / "model", unlooked(tiny), base=fitted)
    painter = load_model(tmp_path / "model")
    assert painter.classes == load_model(fitted_eyes).classes == 2
    assert read_dataset(eyes).class_names == ("disc", "cup")
    assert load_segmenter(tmp_path / "model" / "validator" / "0").network.head.out_channels == 2
    with pytest.raises(ModelError, match="at most the classes of the data") as error:
        fit(phantoms, tmp_path / "other", tiny, base=fitted_eyes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ModelError, match=r"was made for 2, the data has 1; use another base"):
        load_base(find_checkpoint(fitted_eyes), 1, merge=False)


def test_a_class_of_few_lesions_is_told(annotated, eyes):
    discs = [Annotated.of(case) for case in read_dataset(eyes).split("train")]
    assert rare_classes(discs, ("disc", "cup"), 0.12) == [
        "only 7 annotated lesions hold the class cup, and a threshold of its own needs 8: the gate judges requests for "
        "it by the scores of lesions without it"
    ]
    assert rare_classes(discs, ("disc", "cup"), 0.3) == rare_classes(annotated, ("lesion",), 0.01) == []


def test_a_label_value_of_no_class_is_one_line_before_any_work(eyes, tiny, tmp_path):
    data = shutil.copytree(eyes, tmp_path / "data")
    case = read_dataset(data).split("train")[2]
    Image.fromarray(case.read_label() + 3).save(case.mask)
    with pytest.raises(DataError, match=f"here 0, 1, 2: case {case.id}.* has 3, nearest is 2") as error:
        fit(data, tmp_path / "model", tiny, base=None)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()
