import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffaug.errors import ConfigError, DataError
from diffaug.runfolder import Contents, claim, claimed, contents_of, held, holds, in_use, read_contents

THING = Contents("synthetic set", {"seed": 1, "config": {"count": 3}}, "config.json", about={"place": "here"})


def test_a_folder_is_claimed_once_and_continued_by_the_same_call(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not holds(out, THING)
    assert not out.exists(), "looking makes nothing"
    claim(out, THING)
    assert holds(out, THING)
    assert holds(out, replace(THING, about={"place": "elsewhere"}))
    found = read_contents(out, "config.json")
    assert found is not None
    assert found["identity"] == THING.identity
    assert found["place"] == "here"


def test_another_identity_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    claim(tmp_path, THING)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"one synthetic set: .* made with seed = 1, not 2"):
        claim(tmp_path, replace(THING, identity={"seed": 2, "config": {"count": 3}}))
    with pytest.raises(ConfigError, match="made with base = None, not x"):
        claim(tmp_path, replace(THING, identity={**THING.identity, "base": "x"}))
    with pytest.raises(ConfigError, match="made with count = 3, not None; choose"):
        claim(tmp_path, replace(THING, identity={"seed": 1}))
    with pytest.raises(ConfigError, match="made with count = 3, not 4, and 1 more; choose"):
        claim(tmp_path, replace(THING, identity={"seed": 2, "config": {"count": 4}}))
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_of_another_preset_is_refused_with_the_name_of_the_preset(tmp_path: Path) -> None:
    smoke = replace(THING, preset_of=lambda identity: {3: "smoke", 9: "demo"}.get(identity["config"]["count"], ""))
    claim(tmp_path / "smoke", smoke)
    usual = replace(smoke, identity={"seed": 1, "config": {"count": 4}})
    with pytest.raises(ConfigError, match=r"smoke was made with the preset smoke \(count = 3, not 4\); choose another"):
        claim(tmp_path / "smoke", usual)
    with pytest.raises(ConfigError, match=r"with the preset smoke, not demo \(count = 3, not 9\); choose"):
        claim(tmp_path / "smoke", replace(smoke, identity={"seed": 1, "config": {"count": 9}}))
    claim(tmp_path / "usual", usual)
    with pytest.raises(ConfigError, match=r"usual was made without the preset smoke \(count = 4, not 3\); choose"):
        claim(tmp_path / "usual", smoke)


def test_what_may_come_late_is_added_once(tmp_path: Path) -> None:
    claim(tmp_path, THING)
    late = replace(THING, identity={**THING.identity, "oracle": "d1"}, late=("oracle",))
    claim(tmp_path, late)
    assert holds(tmp_path, late)
    with pytest.raises(ConfigError, match="made with oracle = d1"):
        holds(tmp_path, replace(late, identity={**THING.identity, "oracle": "d2"}))


def test_a_folder_that_holds_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".left.1.partial").touch()
    (tmp_path / "known.json").touch()
    assert not holds(tmp_path, replace(THING, beside=("known.json",)))
    with pytest.raises(ConfigError, match=r"holds known.json, and no config.json; choose another folder"):
        claim(tmp_path, THING)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("old", [{"identity": {"seed": 1}}, {"format": 1, "identity": {}}, [], {"format": 2}])
def test_a_folder_of_another_version_is_one_clear_line(tmp_path: Path, old: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"another version of diffaug; run its stage again in another folder"):
        claim(tmp_path, THING)


def test_what_a_folder_must_say_is_read_or_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config.json says what a folder holds: .* has none"):
        contents_of(tmp_path, "config.json")
    claim(tmp_path, THING)
    assert contents_of(tmp_path, "config.json")["identity"] == THING.identity
    (tmp_path / "config.json").write_text('{"identity": {"seed": 1}}')
    with pytest.raises(ConfigError, match="another version of diffaug"):
        contents_of(tmp_path, "config.json")


def _hold(folder: str, ready: Any, done: Any) -> None:
    with held(Path(folder)):
        ready.set()
        done.wait(60)


def test_one_process_works_in_a_folder_and_a_killed_one_lets_it_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path / "out"), ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ConfigError, match="one process works in a folder at a time"), claimed(tmp_path / "out", THING):
        pass
    assert not (tmp_path / "out" / "config.json").exists()
    other.kill()
    other.join()
    with claimed(tmp_path / "out", THING):
        assert holds(tmp_path / "out", THING)


def test_a_folder_is_in_use_while_a_process_works_in_it_or_in_a_share(tmp_path):
    out = tmp_path / "out"
    assert not in_use(out) and not out.exists(), "looking makes nothing"
    with held(out):
        assert in_use(out)
    assert not in_use(out)
    with claimed(out, THING, "1/3"):
        assert in_use(out)
    assert not in_use(out)


def test_whoever_holds_a_folder_removes_what_killed_processes_left(tmp_path):
    (tmp_path / "runs").mkdir()
    left, other = tmp_path / "runs" / ".real-0.jsonl.4711.partial", tmp_path / "runs" / "real-0.jsonl"
    left.write_text("half")
    other.write_text("whole")
    of_weights, own = tmp_path / "runs" / ".tmpYgTSYe", tmp_path / "runs" / ".tmp-mine"  # as safetensors names it
    for path in (of_weights, own):
        path.write_text("half")
    with held(tmp_path):
        assert not left.exists() and not of_weights.exists() and other.exists() and own.exists()


def test_shares_of_a_folder_are_held_together_and_each_once(tmp_path, monkeypatch):
    monkeypatch.setattr("diffaug.runfolder.STARTING", 0.1)
    out = tmp_path / "out"
    with claimed(out, THING, "0/3"), claimed(out, THING, "2/3"):
        (out / ".rows.jsonl.7.partial").write_text("of the other")
        refused = {
            "0/3": r"share 0/3 of .* is in use; take another share",
            "1/4": r"share 0/3 of .* is in use; take a share of 3",
            "": r"share 0/3 of .* is in use; wait until it is made",
        }
        for share, line in refused.items():
            with pytest.raises(ConfigError, match=line), claimed(out, THING, share):
                pass
        other = replace(THING, identity={**THING.identity, "seed": 2})
        with pytest.raises(ConfigError, match="made with seed = 1, not 2"), claimed(out, other, "1/3"):
            pass
        with claimed(out, THING, "1/3"):
            assert (out / ".rows.jsonl.7.partial").exists(), "others may be writing it"
    with claimed(out, THING):
        assert sorted(path.name for path in out.iterdir()) == [".lock", "config.json"]
        with pytest.raises(ConfigError, match="wait for the other"), claimed(out, THING, "1/3"):
            pass


def _hold_share(folder: str, ready: Any, done: Any) -> None:
    with claimed(Path(folder), THING, "0/2"):
        ready.set()
        done.wait(60)


def test_a_folder_that_another_process_claims_between_two_looks_is_its_own(tmp_path, monkeypatch):
    look, out = Path.is_dir, tmp_path / "out"

    def claimed_meanwhile(path, *args, **options):
        if path == out and not look(out):
            monkeypatch.setattr(Path, "is_dir", look)
            claim(out, THING)
            (out / "shards").mkdir()
        return look(path, *args, **options)

    monkeypatch.setattr(Path, "is_dir", claimed_meanwhile)
    assert holds(out, THING)


def test_a_killed_process_lets_its_share_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold_share, args=(str(tmp_path), ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(ConfigError, match="share 0/2"), claimed(tmp_path, THING):
        pass
    other.kill()
    other.join()
    with claimed(tmp_path, THING):
        assert not list(tmp_path.glob(".lock-*"))
