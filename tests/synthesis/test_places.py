"""Laws of sets below a URL: the files of a folder, each shard whole or absent, and no rename or lock."""

import fsspec
import pytest
from synthetic_sets import CONFIG, OPTIONS, run_at_once, tables_and_pictures

from diffaug.cli.main import main
from diffaug.errors import ConfigError, StorageError
from diffaug.synthesis.generate import generate, generate_cases, generate_share
from diffaug.synthesis.places import Folder, Store, place_of
from diffaug.synthesis.plan import make_plan


def fetched(url, to):
    """Fetch a set as the documents say, and return its files but for those of locks, which a folder has."""
    files, root = fsspec.url_to_fs(url)
    files.invalidate_cache()
    files.get(root + "/", str(to), recursive=True)
    return tables_and_pictures(to)


def without_lock(files):
    return {name: data for name, data in files.items() if name != ".lock"}


@pytest.fixture
def memory():
    """A URL in the memory of this process, which is empty before and after."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]  # of tests before: a folder that is put to one of them would land in it
    yield "memory://bucket/set"
    files.store.clear()


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a server on this machine that answers as S3 does."""
    server_of = pytest.importorskip("moto.server", reason="needs moto: pip install 'diffaug[dev]'")
    import boto3

    server = server_of.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        names = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**names, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="sets")
        yield "s3://sets"
    server.stop()


def test_a_path_is_a_folder_and_a_url_is_a_store(tmp_path):
    assert isinstance(place_of(tmp_path), Folder) and isinstance(place_of("synthetic/mine"), Folder)
    assert isinstance(place_of("C:\\sets\\mine"), Folder)
    assert isinstance(place_of("memory://bucket/set"), Store)
    with pytest.raises(ConfigError, match="Protocol not known: nowhere; use s3://"):
        place_of("nowhere://bucket/set")


@pytest.mark.slow
def test_a_set_below_a_url_has_the_files_of_a_folder_and_is_mended(strict, phantoms, unbroken, memory, tmp_path):
    files, store, shard = fsspec.filesystem("memory"), fsspec.filesystem("memory").store, "/bucket/set/shards/00001"
    assert generate_share(strict, phantoms, memory, CONFIG, share=(1, 2)).kept >= 2
    before = store[f"{shard}/rows.jsonl"]
    generate(strict, phantoms, memory, CONFIG)
    assert store[f"{shard}/rows.jsonl"] is before  # not uploaded again
    assert fetched(memory, tmp_path / "first") == without_lock(tables_and_pictures(unbroken))

    masks = sorted(name for name in store if "/masks/" in name and "/shards/00000/" not in name)
    files.pipe(masks[0], b"torn")
    del store["/bucket/set/shards/00000/rows.jsonl"]
    generate(strict, phantoms, memory, CONFIG)
    assert fetched(memory, tmp_path / "second") == without_lock(tables_and_pictures(unbroken))


@pytest.mark.slow
def test_the_rows_of_a_shard_are_uploaded_last(strict, phantoms, memory, monkeypatch):
    plan, order = make_plan(strict, phantoms, CONFIG, 0), []
    put = Store._put

    def noted(self, names):
        order.extend(names)
        put(self, names)
        if order[-1].endswith("digests.json"):
            raise OSError("the line is cut")

    monkeypatch.setattr(Store, "_put", noted)
    with pytest.raises(OSError, match="line is cut"):
        Store(memory).complete(plan, 0)
    assert order[-1].endswith("digests.json") and len(order) == len(set(order)) > 5
    assert not fsspec.filesystem("memory").exists("/bucket/set/shards/00000/rows.jsonl")


def test_what_a_url_holds_is_refused_or_kept_as_a_folder_would(strict, phantoms, memory):
    fsspec.filesystem("memory").pipe("/bucket/set/notes.txt", b"mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, and no config\.json"):
        generate(strict, phantoms, memory, CONFIG)
    fsspec.filesystem("memory").rm("/bucket/set/notes.txt")
    with Store(memory).claimed(make_plan(strict, phantoms, CONFIG, 0).contents()):
        pass
    with pytest.raises(ConfigError, match="made with seed = 0, not 1"):
        generate_share(strict, phantoms, memory, CONFIG, share=(0, 2), seed=1)
    with pytest.raises(ConfigError, match="use a folder, or generate"):
        generate_cases(strict, phantoms, memory, CONFIG)


def test_a_url_that_another_process_claims_between_two_looks_is_its_own(strict, phantoms, memory, monkeypatch):
    contents, listed = make_plan(strict, phantoms, CONFIG, 0).contents(), Store._listed

    def claimed_meanwhile(self):
        monkeypatch.setattr(Store, "_listed", listed)
        with Store(memory).claimed(contents):
            return listed(self)

    monkeypatch.setattr(Store, "_listed", claimed_meanwhile)
    assert Store(memory).holds(contents)


def test_a_name_that_leads_out_of_a_set_below_a_url_is_not_fetched(memory):
    files, inside = fsspec.filesystem("memory"), "/bucket/set/shards/00000"
    files.pipe(f"{inside}/rows.jsonl", b"{}")
    place = Store(memory)
    name = f"shards/00000/../../../{place.folder.name}-out.txt"
    files.store[f"/bucket/set/{name}"] = files.store[f"{inside}/rows.jsonl"]  # a store takes any text for a name
    with pytest.raises(StorageError, match=r"lists 'shards/00000/\.\./.*leads out of the folder; remove it there"):
        place._fetch(place._listed())
    assert not place.folder.with_name(f"{place.folder.name}-out.txt").exists()


@pytest.mark.parametrize("command", ["select", "audit", "review", "report"])
def test_a_command_that_reads_says_how_to_fetch_what_a_url_holds(command, unbroken, memory, tmp_path, capsys):
    words = {"select": ["o", "--study", "s"], "audit": ["o"], "review": [], "report": []}[command]
    with pytest.raises(SystemExit):
        main([command, "memory://bucket/set/", *words])
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "memory://bucket/set is one; give a folder" in line
    files = fsspec.filesystem("memory")
    files.put(str(unbroken), "/bucket/set", recursive=True)
    code = line.partition('python -c "')[2].rstrip().rstrip('"').replace("'set'", repr(str(tmp_path / "set")))
    exec(code)  # the remedy, here rather than in another process, which has another memory
    assert without_lock(tables_and_pictures(tmp_path / "set")) == without_lock(tables_and_pictures(unbroken))


@pytest.mark.slow
def test_an_object_store_gets_the_set_of_one_process_from_shares_and_workers(
    strict, phantoms, unbroken, bucket, tmp_path
):
    expected = without_lock(tables_and_pictures(unbroken))
    generate(strict, phantoms, f"{bucket}/two", CONFIG, workers=2)
    assert fetched(f"{bucket}/two", tmp_path / "two") == expected
    command = ["generate", str(strict), str(phantoms), f"{bucket}/shares", *OPTIONS]
    run_at_once([[*command, "--shard-range", f"{index}/2"] for index in range(2)], tmp_path)
    (told,) = run_at_once([command], tmp_path)
    assert "s3://sets/shares/contact_sheet.png" in told
    assert fetched(f"{bucket}/shares", tmp_path / "shares") == expected


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line(strict, phantoms, bucket):
    with pytest.raises(StorageError, match="check its name and your credentials") as error:
        generate(strict, phantoms, "s3://no-such-bucket/set", CONFIG)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_files_below_a_file_url_are_those_of_a_folder(strict, phantoms, unbroken, tmp_path):
    generate(strict, phantoms, f"file://{tmp_path}/a/set", CONFIG, workers=2)
    assert tables_and_pictures(tmp_path / "a" / "set") == without_lock(tables_and_pictures(unbroken))
