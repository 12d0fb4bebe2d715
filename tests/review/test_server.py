"""Who is answered, and what: laws of the guard, of the record of decisions, and of what a hostile manifest may do."""

import contextlib
import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import threading
import time
from dataclasses import replace

import pytest
from review_folders import make_set, reviewing

from diffaug.cli.main import main
from diffaug.data.manifest import MANIFEST, read_rows, write_rows
from diffaug.data.reviews import FILE
from diffaug.review import guard
from diffaug.review.guard import LARGEST_BODY


@pytest.fixture(scope="module")
def served(review_set, review_data, tmp_path_factory):
    folder = shutil.copytree(review_set, tmp_path_factory.mktemp("served") / "synthetic")
    with reviewing(folder, review_data) as found:
        yield found


def ask(served, path, method="GET", body=None, token=None, host=None, origin="", **headers):
    """Return status, headers and body of an answer; without `host` and `origin` it is asked as the page asks."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    host = f"127.0.0.1:{served.port}" if host is None else host
    headers = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "POST":
        headers = {"Content-Type": "application/json"} | headers
        origin = f"http://{host}" if origin == "" else origin
    if origin:
        headers["Origin"] = origin
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may answer before all is sent
        connection.request(method, f"/{served.token if token is None else token}/{path}", body, headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def decide(served, row=0, decision="reject", why="", **how):
    return ask(served, "decide", "POST", json.dumps({"row": row, "decision": decision, "why": why}), **how)


def test_the_page_answers_with_headers_that_let_nothing_else_in(served):
    for path in ("", "review.js", "review.css", "about", "rows", "facts/0", "thumbnail/0", "frame/0", "decisions"):
        status, headers, body = ask(served, path)
        assert status == 200 and body, path
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in headers)
    page = ask(served, "")[2].decode()
    assert "://" not in page and "<style" not in page and "style=" not in page  # nothing from elsewhere, nothing inline


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"token": "wrong"}, 404),
        ({"token": ""}, 404),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
    ],
)
def test_a_stranger_is_refused_and_it_is_logged_without_the_token(served, caplog, how, status):
    before = len(served.desk.reviews.lines)
    with caplog.at_level(logging.WARNING):
        for answer in (ask(served, "rows", **how), decide(served, **how)):
            assert answer[0] == status and b"synth" not in answer[2]
    assert len(served.desk.reviews.lines) == before
    assert "refused a request" in caplog.text and served.token not in caplog.text


def test_a_change_needs_an_origin_a_method_of_the_page_and_its_own_kind_of_body(served):
    assert decide(served, origin=None)[0] == 403
    assert ask(served, "rows", "DELETE")[0] == 405
    assert decide(served, Content_Type="text/plain")[0] == 415
    assert ask(served, "decide")[0] in (404, 405)


def test_bodies_are_small_stated_and_of_the_right_type(served, monkeypatch):
    before = len(served.desk.reviews.lines)
    assert decide(served, why="x" * LARGEST_BODY)[0] == 413
    chunked = (part for part in (b'{"row": 0, ', b'"decision": "reject"}'))
    assert ask(served, "decide", "POST", chunked)[0] == 411
    for body in ("[]", "{", '{"row": "a", "decision": "reject"}', '{"row": 0, "decision": "burn"}', "x", "[" * 4000):
        assert ask(served, "decide", "POST", body)[0] in (400, 422), body[:40]
    for row in (-1, 11, 10**12):
        status, _, body = decide(served, row=row)
        assert status == 422 and b"a row has a number under 11" in body
    assert decide(served, why="x" * 501)[0] == 422
    assert len(served.desk.reviews.lines) == before
    monkeypatch.setattr(guard, "SLOWEST_BODY", 0.2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as slow:
        host = f"127.0.0.1:{served.port}"
        lines = f"POST /{served.token}/decide HTTP/1.1", f"Host: {host}", f"Origin: http://{host}"
        lines += "Content-Type: application/json", "Content-Length: 50", "", "{"
        slow.sendall("\r\n".join(lines).encode())
        started = time.monotonic()
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
        assert time.monotonic() - started < 15
    assert ask(served, "about")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "frame/../../manifest.jsonl", "frame/%2e%2e", "frame/0%00",
     "review.py", "manifest.jsonl", "//etc/passwd", "server.js", "real?id=../../x", "real?id=%2Fetc%2Fpasswd",
     "frame/-1", "thumbnail/99"],
)  # fmt: skip
def test_no_path_leads_out_of_what_the_page_shows(served, path):
    status, _, body = ask(served, path)
    assert status in (404, 422) and b"root:" not in body and b"Traceback" not in body


def test_a_decision_is_a_line_with_who_when_and_why(own_set, review_data):
    with reviewing(own_set, review_data) as served:
        assert decide(served, row=2, why=" too\nsharp ")[0] == 200
        assert decide(served, row=3, decision="accept")[0] == 200
        assert decide(served, row=3, decision="undo")[0] == 200
        found = json.loads(ask(served, "decisions")[2])
        assert found["lines"] == 3 and found["changed"]["synth-00003"] is None
        assert json.loads(ask(served, "decisions?since=1")[2])["changed"] == {"synth-00003": None}
    first = json.loads((own_set / FILE).read_text().splitlines()[0])
    assert first["who"] == "Anna" and first["why"] == "too\\nsharp" and first["when"].endswith("Z")
    assert first["image"] == read_rows(own_set / MANIFEST)[2].image_digest
    with (own_set / FILE).open("a") as file:
        file.write('{"id": "synth-0')  # what a kill leaves
    with reviewing(own_set) as served:
        assert json.loads(ask(served, "decisions")[2])["changed"]["synth-00002"]["decision"] == "reject"
        assert decide(served, row=4)[0] == 200
    assert [json.loads(line)["id"] for line in (own_set / FILE).read_text().splitlines()][-1] == "synth-00004"


def test_real_lesions_stand_beside_a_painted_one(served, review_data):
    found = json.loads(ask(served, "facts/0")[2])
    assert found["example"] == "train-1" and found["facts"]["Prompt"] == "a small <flat> polyp"
    assert ask(served, "real?id=train-1&outline=true")[2].startswith(b"\x89PNG")
    for _ in range(200):
        nearest = json.loads(ask(served, "nearest/0")[2])
        if nearest["measured"] == nearest["of"]:
            break
        time.sleep(0.05)
    assert nearest["id"].startswith("train-") and nearest["of"] == 6


def test_a_data_set_can_be_looked_at_and_is_not_written_to(review_data):
    before = sorted(review_data.rglob("*"))
    with reviewing(review_data) as served:
        about = json.loads(ask(served, "about")[2])
        assert about["kind"] == "data" and not about["decides"] and about["count"] == 11
        assert ask(served, "frame/0?outline=true")[0] == 200
        assert decide(served)[0] == 422
    assert sorted(review_data.rglob("*")) == before


@pytest.mark.parametrize("name", ["image", "link", "html", "number", "schema", "cut"])
def test_a_manifest_of_an_enemy_leaks_and_runs_nothing(own_set, tmp_path, name):
    (tmp_path / "secret.png").write_bytes((own_set / read_rows(own_set / MANIFEST)[0].image).read_bytes())
    path = own_set / MANIFEST
    rows = list(read_rows(path))
    picture = own_set / rows[1].image
    if name == "link":
        picture.unlink()
        picture.symlink_to(tmp_path / "secret.png")
    if name == "html":
        rows[1] = replace(
            rows[1], request=replace(rows[1].request, prompt="<img src=x onerror=alert(1)>\u202e\n</script>")
        )
        write_rows(path, rows)
    texts = path.read_text().splitlines()
    changes = {"image": (rows[1].image, "../../secret.png"), "number": ('"score": 0.8', '"score": NaN'),
               "schema": ('"schema": 2', '"schema": 9'), "cut": (texts[1], texts[1][:200])}  # fmt: skip
    if name in changes:
        texts[1] = texts[1].replace(*changes[name])
        path.write_text("\n".join(texts) + "\n")
    if name in ("number", "schema", "cut"):  # told before the page opens
        with pytest.raises(SystemExit):
            main(["review", str(own_set)])
        return
    with reviewing(own_set) as served:
        listed = json.loads(ask(served, "rows")[2])
        status, _, body = ask(served, "frame/1")
        if name == "html":
            assert "\u202e" not in listed["prompt"][1] and "\n" not in listed["prompt"][1] and status == 200
        else:
            assert status == 422 and b"PNG" not in body and b"path" in body


def test_a_link_in_the_place_of_a_record_is_not_written_through(own_set, tmp_path, capsys):
    (tmp_path / "outside").write_text("")
    for name in (FILE, ".lock"):
        (own_set / name).unlink(missing_ok=True)
        (own_set / name).symlink_to(tmp_path / "outside")
        with pytest.raises(SystemExit):
            main(["review", str(own_set)])
        assert "leads out of the folder by a link" in capsys.readouterr().err
        (own_set / name).unlink()
    assert (tmp_path / "outside").read_text() == ""


def test_what_cannot_be_reviewed_is_one_line(own_set, review_data, tmp_path, capsys, monkeypatch):
    def fails(*words):
        with pytest.raises(SystemExit) as end:
            main(["review", *map(str, words)])
        said = capsys.readouterr()
        assert end.value.code == 1 and said.err.count("\n") == 1 and not said.out, said
        return said.err

    assert "--with DATA" in fails(own_set, "--blind")
    assert "does not exist" in fails(tmp_path / "none")
    assert "is neither" in fails(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "a port must be free" in fails(own_set, "--port", other.getsockname()[1])
    assert "plain name" in fails(own_set, "--reviewer", "a/b")
    assert "was generated from" in fails(own_set, "--with", own_set)
    assert "a frame of each kind" in fails(own_set, "--blind", "--with", review_data, "--count", 0)
    (own_set / FILE).write_text('{"id": "synth-00000"}\n{}\n')
    assert "restore the file, or remove the line" in fails(own_set)
    (own_set / FILE).write_text('no JSON\n{"id": "synth-00000"}\n')
    assert "must be JSON" in fails(own_set)
    (own_set / FILE).unlink()
    (own_set / "summary.json").unlink()
    assert "must be finished" in fails(own_set)
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    assert "pip install 'diffaug[review]'" in fails(own_set)


def test_one_process_reviews_a_set_at_a_time(own_set, capsys):
    from diffaug.runfolder import held

    with held(own_set), pytest.raises(SystemExit):
        main(["review", str(own_set)])
    assert "is in use" in capsys.readouterr().err


def test_the_cache_of_pictures_has_a_bound():
    from diffaug.review.pictures import Cache

    cache, made = Cache(bound=100), []
    for key in (1, 2, 1, 3, 2):
        assert cache.get(key, lambda key=key: made.append(key) or bytes(40)) == bytes(40)
    assert made == [1, 2, 3, 2] and cache.size <= 100


def test_a_set_that_grew_is_told(review_data, tmp_path):
    folder = make_set(tmp_path / "set", review_data, kept=2)
    rows = read_rows(folder / MANIFEST)
    write_rows(folder / MANIFEST, rows[:-1])
    from diffaug.errors import DataError
    from diffaug.review.rows import SetRows

    with pytest.raises(DataError, match="has 3, not 4"):
        SetRows(folder)


def test_the_command_prints_its_address_and_at_the_end_what_was_decided(own_set, review_data, capsys):
    def interrupt(port):
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    for words in ((), ("--blind", "--with", str(review_data), "--count", "2")):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        thread = threading.Thread(target=interrupt, args=(port,))
        thread.start()
        main(["review", str(own_set), "--port", str(port), "--reviewer", "Anna", *words])
        thread.join()
        said = capsys.readouterr().out
        assert re.search(rf"Open http://127\.0\.0\.1:{port}/[\w-]{{32}}/ in a browser", said)
        assert ("0 of 4 frames are answered" if words else "0 accepted, 0 rejected") in said
