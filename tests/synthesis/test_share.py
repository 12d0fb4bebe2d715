"""Laws of shares: whoever makes which, the joined set is the one that a single process makes."""

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from synthetic_sets import CONFIG, OPTIONS, run_at_once, tables_and_pictures

from diffaug.artifacts import read_json
from diffaug.cli.base import without_option
from diffaug.cli.main import main
from diffaug.data.manifest import read_rows
from diffaug.errors import ConfigError
from diffaug.runfolder import claimed
from diffaug.synthesis.generate import generate, generate_cases, generate_share
from diffaug.synthesis.plan import make_plan
from diffaug.synthesis.shards import shard_folder
from diffaug.synthesis.share import Share, share_from_text

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from scale_workers import kill_a_worker


@pytest.mark.parametrize("strata", [1, 2, 3, 6])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_partition_the_shards_and_each_has_shards_of_every_stratum(strata, count):
    shares = [Share(index, count) for index in range(count)]
    turns = range(strata * count)
    assert all(sum(share.has(shard, strata) for share in shares) == 1 for shard in range(100))
    for share in shares:
        assert sorted(shard % strata for shard in turns if share.has(shard, strata)) == list(range(strata))


def test_shares_together_keep_what_is_wanted_of_every_stratum():
    quotas = {"small": 10, "large": 1, "medium": 0}
    parts = [Share(index, 3).quotas(quotas) for index in range(3)]
    assert parts[0] == {"small": 4, "large": 1, "medium": 0}
    assert all(sum(part[name] for part in parts) >= quota for name, quota in quotas.items())


@pytest.mark.parametrize("text", ["3/3", "a/b", "1/0", "-1/2", "1", "1/2/3", "", "0.5/2"])
def test_a_range_that_is_none_is_one_line_with_an_example(text):
    with pytest.raises(ConfigError, match=r"from 0 to N - 1: it is '.*'; for three workers use 0/3, 1/3 and 2/3$"):
        share_from_text(text)
    assert share_from_text("2/3") == Share(2, 3)


def test_a_wrong_range_ends_the_command_before_anything_is_read(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["generate", "m", "d", str(tmp_path / "out"), "--shard-range", "3/3"])
    err = capsys.readouterr().err
    assert end.value.code == 1 and err.count("\n") == 1 and "'3/3'" in err
    assert not list(tmp_path.iterdir())


def test_the_next_command_is_the_same_without_the_range():
    words = ["generate", "m", "--shard-range", "0/3", "d", "--count", "3"]
    assert without_option("--shard-range", words) == ["generate", "m", "d", "--count", "3"]
    assert without_option("--shard-range", ["generate", "--shard-range=0/3", "m"]) == ["generate", "m"]


@pytest.mark.slow
def test_a_share_is_joined_with_what_is_missing_to_the_set_of_one_process(strict, phantoms, unbroken, tmp_path):
    out = tmp_path / "synthetic"
    made = generate_share(strict, phantoms, out, CONFIG, share=(1, 2))
    assert made.kept >= made.wanted == 2 and made.shards
    assert not (out / "manifest.jsonl").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("shards/*/rows.jsonl")}
    assert {int(path.parent.name) % 2 for path in before} == {1}
    generate(strict, phantoms, out, CONFIG)
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items() if path.exists())  # not made again

    again = generate_share(strict, phantoms, out, CONFIG, share=(0, 2))  # in a finished set nothing is made
    rows = [read_rows(shard_folder(out, shard) / "rows.jsonl") for shard in range(len(list(out.glob("shards/*"))))]
    assert again.shards == len(rows[::2]) and again.requested == sum(map(len, rows[::2]))
    assert tables_and_pictures(out).keys() - {".lock-0-2"} == tables_and_pictures(unbroken).keys()


def test_a_share_of_other_settings_and_a_whole_set_beside_a_share_are_refused(strict, phantoms, tmp_path):
    contents = make_plan(strict, phantoms, CONFIG, 0).contents()
    with claimed(tmp_path / "set", contents, "1/2"):
        with pytest.raises(ConfigError, match=r"made with seed = 0, not 1"):
            generate_share(strict, phantoms, tmp_path / "set", CONFIG, share=(0, 2), seed=1)
        with pytest.raises(ConfigError, match=r"share 1/2 of .* is in use; wait until it is made"):
            generate(strict, phantoms, tmp_path / "set", CONFIG)


@pytest.mark.slow
def test_three_commands_at_once_and_a_fourth_write_what_one_process_writes(strict, phantoms, unbroken, tmp_path):
    out = tmp_path / "synthetic"
    command = ["generate", str(strict), str(phantoms), str(out), *OPTIONS]
    told = run_at_once([[*command, "--shard-range", f"{index}/3"] for index in range(3)], tmp_path)
    again = f"Next: diffaug {shlex.join(command)}"
    assert all(text.startswith(f"Share {index} of 3 (from 0)") for index, text in enumerate(told))
    assert all(text.splitlines()[-1] == again for text in told)
    main(command)
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_actors_of_which_one_is_killed_write_what_one_process_writes(strict, phantoms, unbroken, tmp_path):
    out = tmp_path / "synthetic"
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill_a_worker, out)
        summary = generate(strict, phantoms, out, CONFIG, workers=2, ray="auto")
    assert killed.result()
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)
    assert summary.as_dict()["lesions"] == read_json(unbroken / "summary.json")["lesions"]


@pytest.mark.slow
def test_a_machine_that_is_lost_while_it_paints_leaves_no_gap(strict, phantoms, unbroken, ray_cluster, tmp_path):
    machine, out = ray_cluster.add_node(num_cpus=2), tmp_path / "synthetic"
    cases = generate_cases(strict, phantoms, out, CONFIG, workers=4, ray="auto")
    next(cases)  # others are being painted
    ray_cluster.remove_node(machine, allow_graceful=False)
    assert len(list(cases)) == CONFIG.count - 1
    assert tables_and_pictures(out) == tables_and_pictures(unbroken)
