"""The realism gate: what looks painted is turned down with a reason."""

import shutil

import numpy as np
import pytest
from synthetic_sets import CONFIG

from diffaug.data.images import read_image
from diffaug.data.manifest import read_rows
from diffaug.encoder import encoder_digest
from diffaug.models.checkpoints import seal
from diffaug.realism.critic import Critic, Measured
from diffaug.realism.features import LENGTH
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.shards import PREVIEWS, generate_shard, shard_folder, workshop_of


@pytest.fixture
def rows_under(fitted, phantoms, tmp_path):
    """Return a function that generates a shard under a critic with a threshold, which scores every lesion one half."""

    def made(threshold, name, **change):
        model = shutil.copytree(fitted, tmp_path / f"model-{name}")
        if threshold is not None:
            measured = Measured("endoscopy", 20, 0.5, {"all": threshold}, 1.0, encoder_digest())
            Critic(np.zeros(LENGTH), 0.5, measured).save(model)
            seal(model)
        config = CONFIG.model_copy(update={"gate": "fixed", "threshold": 0.0, **change})
        workshop_of.cache_clear()
        generate_shard(make_plan(model, phantoms, config, seed=3), tmp_path / name, 0)
        return read_rows(shard_folder(tmp_path / name, 0) / "rows.jsonl")

    yield made
    workshop_of.cache_clear()


def is_left_over(row):
    """Tell whether a row was turned down for what its background still shows of a lesion."""
    return "no tissue of its frame" in row.reason or "after its removal" in row.reason


def test_a_critic_that_accepts_everything_changes_no_picture(rows_under, tmp_path):
    accepting, none = rows_under(0.4, "accepting"), rows_under(None, "none")
    assert [row.image for row in accepting] == [row.image for row in none]
    for path in (row.image for row in none if row.image):
        np.testing.assert_array_equal(*(read_image(tmp_path / name / path) for name in ("accepting", "none")))
    lesions = [row for row in accepting if row.image and not row.request.negative]
    assert lesions and all(row.look.score == 0.5 and row.look.accepted for row in lesions)
    assert not any(row.look for row in none)


def test_what_looks_painted_is_turned_down_with_a_reason_and_shown_as_a_preview(rows_under):
    rows = [row for row in rows_under(0.6, "strict") if row.look and not row.request.negative and not is_left_over(row)]
    rows = [row for row in rows if row.decision != "stopped"]
    assert rows and {row.decision for row in rows} == {"rejected"}
    assert {row.reason for row in rows} == {"looks painted: 0.50 over 0.40"}
    assert not any(row.image for row in rows)
    assert sum(bool(row.preview) for row in rows) == min(PREVIEWS, len(rows))


@pytest.mark.parametrize("change", [{"realism": False}, {"gate": "off"}])
def test_without_the_realism_gate_nothing_is_looked_at(rows_under, change):
    rows = rows_under(0.6, "off", **change)
    assert any(row.decision == "kept" for row in rows) and not any(row.look for row in rows)


def test_what_looks_painted_is_written_where_all_is_painted(rows_under):
    rows = rows_under(0.6, "all", paint_all=True)
    rows = [row for row in rows if row.image and not row.request.negative and not is_left_over(row)]
    rows = [row for row in rows if row.decision != "stopped"]
    assert rows and all(row.decision == "rejected" and row.look for row in rows)
