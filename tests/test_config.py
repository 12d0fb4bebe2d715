from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from diffaug.config import (
    PRESETS,
    Config,
    FitConfig,
    GenerateConfig,
    Source,
    StudyConfig,
    ValidatorConfig,
    config_from_values,
    read_config,
)
from diffaug.data.sources import LAYOUTS
from diffaug.errors import ConfigError
from diffaug.knobs import Affects, Knobs, identity_of
from diffaug.layouts import SOURCES
from diffaug.presets import preset_of


def refused(values):
    with pytest.raises(ConfigError) as error:
        config_from_values(values)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
    return str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_yaml(tmp_path, name):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(PRESETS[name].model_dump(mode="json")))
    assert read_config(path) == PRESETS[name]


def test_every_source_has_a_reader_and_every_reader_is_a_source():
    assert tuple(LAYOUTS) == tuple(SOURCES) == get_args(Source)
    assert tuple(SOURCES) == get_args(Source)


def test_an_empty_file_is_the_default(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert read_config(tmp_path / "config.yaml") == Config()


def test_a_file_changes_only_the_knobs_it_names(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("preset: default\nfit:\n  codec:\n    iterations: 7\n")
    config = read_config(path)
    assert config.fit.codec.iterations == 7
    assert config.model_copy(update={"fit": FitConfig()}) == Config()
    assert config.fit.denoiser == FitConfig().denoiser


def test_an_unknown_knob_is_named_with_its_place():
    assert "fit.codec.widdths is not; use one of window, cell," in refused({"fit": {"codec": {"widdths": [16]}}})
    assert "sed is not; use one of out, records, budget, seed, device" in refused({"sed": 1})
    with pytest.raises(ConfigError, match=r"hardnes is not; use one of hard_cut, novelty"):
        StudyConfig(select={"hardnes": "loss"})


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("generate.count", 0),
        ("generate.count", "many"),
        ("generate.place", "anywhere"),
        ("fit.sampler.strength", 1.5),
        ("fit.sampler.checks", [0.5, 1.2]),
        ("fit.sampler.steps", 1001),
        ("fit.codec.learning_rate", float("nan")),
        ("fit.validator.alpha", 0.5),
        ("fit.validator.folds", 1),
        ("data.draws", [0, 1, 0]),
        ("data.annotated", [25, 25]),
        ("data.annotated", []),
        ("data.test", ["val", "val"]),
        ("fit", None),
    ],
)
def test_an_impossible_value_is_one_line_that_names_the_knob(knob, value):
    first, *rest = reversed(knob.split("."))
    values = {first: value}
    for name in rest:
        values = {name: values}
    assert knob in refused(values)


def test_a_value_that_fits_no_kind_is_told_by_its_place_alone():
    assert refused({"data": {"annotated": [0]}}).startswith("data.annotated.0 must be ")


def test_a_single_value_is_a_list_of_one():
    values = {"data": {"annotated": 12, "draws": 3, "test": "val"}, "study": {"arms": "real"}}
    config = config_from_values(values)
    assert (config.data.annotated, config.data.draws, config.data.test) == ((12,), (3,), ("val",))
    assert config.study.arms == ("real",)


def test_widths_are_multiples_of_the_16_groups_that_normalise_them():
    assert "fit.denoiser.widths.1" in refused({"fit": {"denoiser": {"widths": [16, 40]}}})
    assert "fit.denoiser.widths" in refused({"fit": {"denoiser": {"widths": []}}})
    assert config_from_values({"fit": {"denoiser": {"widths": [16, 48]}}}).fit.denoiser.widths == (16, 48)


def test_a_text_encoder_has_32_channels_for_each_head():
    assert "multiple of 32" in refused({"fit": {"denoiser": {"text_width": 48}}})


def test_a_window_is_a_whole_number_of_latent_cells_at_every_resolution_of_the_networks():
    assert "multiple of 32: it is 80; use 96" in refused({"fit": {"codec": {"window": 80}}})
    assert "multiple of 64" in refused({"fit": {"codec": {"window": 96}, "denoiser": {"widths": [16, 16, 16, 16]}}})
    assert config_from_values({"fit": {"codec": {"window": 96}}}).fit.codec.window == 96


def test_a_latent_cell_holds_whole_cells_of_the_validator():
    assert "multiple of 4" in refused({"fit": {"codec": {"cell": 6, "window": 96}}})


def test_a_codec_is_wide_enough_to_carry_its_latents():
    assert "it is 16, width is 24" in refused({"fit": {"codec": {"width": 24}}})
    assert "it is 49, width is" in refused({"fit": {"codec": {"cell": 4, "latent_channels": 49}}})
    assert config_from_values({"fit": {"codec": {"cell": 4, "latent_channels": 48}}}).fit.codec.latent_channels == 48


def test_a_broken_part_is_told_before_what_depends_on_it():
    assert refused({"fit": {"codec": {"window": -1}}}).startswith("fit.codec.window")


@pytest.mark.parametrize("values", [[1], "text", 3])
def test_a_config_must_be_a_mapping(values):
    assert "`name: value` lines" in refused(values)


@pytest.mark.parametrize("preset", ["huge", ["default"], 3, {}])
def test_an_unknown_preset_is_told_with_the_known_ones(tmp_path, preset):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"preset": preset}))
    with pytest.raises(ConfigError, match="default"):
        read_config(path)


def test_a_misspelt_preset_is_answered_with_the_one_that_was_meant():
    with pytest.raises(ConfigError, match=r"it is 'smok'; did you mean smoke\?$"):
        config_from_values({}, "smok")


@pytest.mark.parametrize("stage", ["fit", "generate", "study"])
def test_a_preset_is_known_by_its_settings_beside_a_count_of_cases(stage):
    for name in ("smoke", "demo"):
        given = identity_of(getattr(PRESETS[name], stage))
        assert preset_of(stage, {"config": given, "seed": 0}) == name
        assert preset_of(stage, {f"{stage}.{knob}": value for knob, value in given.items()}) == name
        assert preset_of(stage, given | {"count": 31}) == name
    assert preset_of(stage, identity_of(getattr(PRESETS["default"], stage))) == ""
    assert preset_of(stage, {"config": [], "other": None}) == ""


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", None])
def test_a_file_that_is_missing_or_no_yaml_is_one_line_of_error(tmp_path, content):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml") as error:
        read_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.6, "much"])
def test_an_impossible_value_is_one_line_wherever_it_comes_from(alpha):
    for make in (
        lambda: ValidatorConfig(alpha=alpha),
        lambda: config_from_values({"fit": {"validator": {"alpha": alpha}}}),
    ):
        with pytest.raises(ConfigError, match=r"alpha must be .*: it is .*" + str(alpha)) as error:
            make()
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"fit\.validator\.alpha"):
        config_from_values({"fit": {"validator": {"alpha": alpha}}})


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        GenerateConfig().count = 3


def _groups(config: Knobs, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Knobs]]:
    """Yield a group of knobs and every group inside it, each with its place."""
    yield path, config
    for name in type(config).model_fields:
        if isinstance(group := getattr(config, name), Knobs):
            yield from _groups(group, (*path, name))


def _other(value: Any) -> Any:
    """Return a value that differs from a knob's; whether it is a sensible one does not matter here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ("other",) if isinstance(value, tuple) else "other"


KNOBS = [
    (place, name)
    for place, group in _groups(Config())
    for name in type(group).model_fields
    if not isinstance(getattr(group, name), Knobs)
]


@pytest.mark.parametrize(("place", "name"), KNOBS, ids=[".".join((*place, name)) for place, name in KNOBS])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_knob_changes_the_identity_unless_it_says_that_results_do_not_depend_on_it(
    place: tuple[str, ...], name: str
) -> None:
    groups = dict(_groups(Config()))
    changed: Knobs = groups[place].model_copy(update={name: _other(getattr(groups[place], name))})
    marked = any(isinstance(mark, Affects) for mark in type(changed).model_fields[name].metadata)
    assert (identity_of(changed) == identity_of(groups[place])) == marked
    for depth in range(len(place) - 1, -1, -1):  # the groups around it
        changed = groups[place[:depth]].model_copy(update={place[depth]: changed})
        assert (identity_of(changed) == identity_of(groups[place[:depth]])) == marked
