"""data.download against a local server that breaks off, lies, changes its mind and sends hostile files."""

import contextlib
import errno
import io
import os
import random
import re
import shutil
import signal
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data import DataError, download

MDB = random.Random(0).randbytes(300_000)
NAME = "/bedroom_train_lmdb.zip"


def make_zip(files: dict, compression=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def lsun_zip(mdb: bytes) -> bytes:
    folder = "bedroom_train_lmdb/"
    return make_zip({folder: b"", f"{folder}data.mdb": mdb, f"{folder}lock.mdb": b"lock"})


GOOD = lsun_zip(MDB)


class Site(ThreadingHTTPServer):
    """`files`: path -> bytes. `script`: a dict for each GET to come, how its answer misbehaves."""

    daemon_threads = False  # so that closing the server waits for them

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.heads, self.head = {NAME: GOOD}, 0, {}
        self.script, self.always, self.log = [], {}, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        how, body = self.server.head, self.server.files.get(self.path)
        status = how.get("status", 404 if body is None else 200)
        self.server.heads += 1
        if status != 200:
            return self.send_error(status)
        self.send_response(200)
        if not how.get("no_length"):
            self.send_header("Content-Length", str(len(body) + how.get("lie", 0)))
        self.send_header("Content-Type", how.get("type", "application/zip"))
        self.end_headers()

    def do_GET(self):
        site, how = self.server, self.server.always
        if site.script:
            how = site.script.pop(0)
        body, wanted = site.files.get(self.path), self.headers["Range"]
        status = how.get("status", 404 if body is None else 200)
        site.log.append((status, self.path, wanted))
        if status != 200:
            return self.send_error(status)
        start = 0
        if wanted and not how.get("no_range"):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if not how.get("no_length"):
            self.send_header("Content-Length", str(len(body) - start + how.get("lie", 0)))
        self.send_header("Content-Type", how.get("type", "application/zip"))
        self.end_headers()
        self.wfile.write(body[start:][: how.get("stop")])
        if "interrupt" in how:
            while not how["interrupt"]():
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            with contextlib.suppress(OSError):
                self.rfile.read(1)  # until the client hangs up


@pytest.fixture
def site():
    server = Site()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(site, tmp_path, capsys, monkeypatch):
    """run("lsun", "bedroom") -> (exit code, stdout, stderr), in an empty folder; no pauses, four tries."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = 0
        try:
            download.main(argv, lsun=site.url, hwdb=site.url, pauses=(0, 0, 0))
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


PART = Path("lsun/bedroom_train_lmdb.part")


def assert_complete(content: bytes = MDB) -> None:
    """The LMDB is there, and nothing else is."""
    assert Path("lsun/bedroom_train_lmdb/data.mdb").read_bytes() == content
    assert sorted(str(path) for path in Path().rglob("*")) == [
        "lsun",
        "lsun/bedroom_train_lmdb",
        "lsun/bedroom_train_lmdb/data.mdb",
    ]


def assert_refused(answer: tuple, text: str) -> None:
    """Exit code 2, one line with that text, nothing under the final name."""
    code, _, err = answer
    assert code == 2
    assert err.startswith("data.download: error: ") and err.count("\n") == 1 and text in err, err
    assert not Path("lsun/bedroom_train_lmdb/data.mdb").exists()


def test_lsun(run, site):
    code, out, err = run("lsun", "bedroom")
    assert (code, err) == (0, "")
    assert out.endswith("complete; next: python lsgan_scenes.py --data lsun/bedroom\n")
    assert_complete()
    assert site.log == [(200, NAME, None)]


def test_a_whole_part_is_unpacked_even_if_the_server_does_not_tell_the_length(run, site):
    """As when the process was killed while it unpacked. curl could not continue: there is nothing more."""
    site.head = {"status": 405}
    PART.parent.mkdir()
    PART.write_bytes(GOOD)
    assert run("lsun", "bedroom")[0] == 0 and not site.log
    assert_complete()


def test_what_is_complete_is_neither_downloaded_nor_touched(run, site):
    Path("lsun/bedroom_train_lmdb").mkdir(parents=True)
    Path("lsun/bedroom_train_lmdb/data.mdb").write_bytes(b"mine")
    code, out, _ = run("lsun", "bedroom")
    assert code == 0 and "--data lsun/bedroom\n" in out and site.log == []
    assert_complete(b"mine")


def test_an_empty_folder_is_not_complete(run, site):
    Path("lsun/bedroom_train_lmdb").mkdir(parents=True)
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_zip_that_the_user_has_is_unpacked_and_kept(run, site):
    own = Path("lsun/bedroom_train_lmdb.zip")
    own.parent.mkdir()
    own.write_bytes(GOOD[:-30])
    code, _, err = run("lsun", "bedroom")
    assert code == 2 and f"{own} is damaged" in err and not Path("lsun/bedroom_train_lmdb/data.mdb").exists()
    own.write_bytes(GOOD)
    assert run("lsun", "bedroom")[0] == 0 and site.log == [] and own.read_bytes() == GOOD
    own.unlink()
    assert_complete()


def test_val_split_and_another_folder(run, site):
    site.files["/tower_val_lmdb.zip"] = make_zip({"tower_val_lmdb/data.mdb": MDB})
    code, out, _ = run("lsun", "tower", "--split", "val", "--out", "my data/x")
    assert code == 0 and out.endswith("--data 'my data/x/tower_val_lmdb'\n")
    assert Path("my data/x/tower_val_lmdb/data.mdb").read_bytes() == MDB


def test_addresses_and_pauses_of_the_real_thing():
    assert download.LSUN == "http://dl.yf.io/lsun/scenes"
    assert download.HWDB == "http://www.nlpr.ia.ac.cn/databases/Download/Offline/CharData"
    assert list(download.PAUSES) == sorted(set(download.PAUSES))


# Breaking off and continuing


def test_continues_where_it_broke_off(run, site):
    site.script = [{"stop": 100_000}, {"stop": 50_000}, {"stop": 0}]
    code, out, _ = run("lsun", "bedroom")
    assert code == 0 and out.count("trying again") == 3
    assert_complete()
    assert [entry[2] for entry in site.log] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
        "bytes=150000-",
    ]


def test_many_breaks_are_fine_as_long_as_something_arrives(run, site):
    site.always = {"stop": 20_000}
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()
    assert len(site.log) > 10  # more than the four tries that may bring nothing


def test_gives_up_when_nothing_new_arrives_and_the_next_run_continues(run, site):
    site.script = [{"stop": 100_000}]
    site.always = {"stop": 0}
    answer = run("lsun", "bedroom")
    assert_refused(answer, "gave up after 4 tries; what has arrived is kept, run the same command again")
    assert len(site.log) == 4 and PART.read_bytes() == GOOD[:100_000]
    site.always = {}
    assert run("lsun", "bedroom")[0] == 0
    assert site.log[-1] == (200, NAME, "bytes=100000-")
    assert_complete()


def test_pauses_grow_and_start_again_after_progress(site, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    site.script = [{"stop": 9}, {"stop": 0}, {"stop": 0}, {"stop": 9}, {"stop": 0}]
    download.fetch_lmdb(site.url + NAME, tmp_path / "bedroom_train_lmdb", pauses=(1, 2, 3))
    assert slept == [1, 2, 3, 1, 2]


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, even if the tests run in the background, where shells ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_the_part(run, site, interruptible):
    site.script = [{"stop": 130_000, "interrupt": lambda: PART.exists() and PART.stat().st_size > 50_000}]
    code, _, err = run("lsun", "bedroom")
    assert code == 130 and err.count("\n") == 1 and "run the same command again to continue" in err
    kept = PART.stat().st_size
    assert 50_000 < kept <= 130_000 and PART.read_bytes() == GOOD[:kept]
    assert run("lsun", "bedroom")[0] == 0
    assert site.log[-1][2] == f"bytes={kept}-"
    assert_complete()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(run, site, status):
    site.script = [{"status": status}, {"stop": 5000}, {"status": status}]
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_server_that_stays_in_trouble(run, site):
    site.always = {"status": 500}
    assert_refused(run("lsun", "bedroom"), "500")
    assert len(site.log) == 4


def test_not_found_is_final(run, site):
    assert_refused(run("lsun", "ballroom"), "the server answers 404")
    assert site.heads == 1 and not site.log


def test_nobody_listens(run, site):
    site.url = "http://127.0.0.1:9"
    assert_refused(run("lsun", "bedroom"), "connect to 127.0.0.1")


# Servers with ideas of their own


def test_a_server_without_ranges_costs_no_part(run, site):
    site.script = [{"stop": 100_000}, {"stop": 150_000, "no_range": True}]
    assert_refused(run("lsun", "bedroom"), "starts over if you delete lsun/bedroom_train_lmdb.part")
    assert PART.stat().st_size == 100_000 and len(site.log) == 2
    assert run("lsun", "bedroom")[0] == 0  # the next one can continue
    assert_complete()


def test_a_web_page_in_place_of_the_rest_costs_no_part(run, site):
    site.script = [{"stop": 100_000}, {"no_range": True, "type": "text/html"}]
    assert_refused(run("lsun", "bedroom"), "starts over if you delete")
    assert PART.stat().st_size == 100_000


def test_two_downloads_of_the_same_file(run, site):
    """They would append to the same part."""
    Path("lsun").mkdir()
    with download.lock_part(PART):
        assert_refused(
            run("lsun", "bedroom"), "another data.download is writing lsun/bedroom_train_lmdb.part"
        )
    assert not site.log and not PART.exists()
    assert run("lsun", "bedroom")[0] == 0


def test_a_download_that_begins_as_another_one_ends_has_nothing_to_do(run, site, monkeypatch):
    """The other one finishes between the look at the folder and the lock."""
    lock_part = download.lock_part

    def late(part):
        monkeypatch.setattr(download, "lock_part", lock_part)
        assert run("lsun", "bedroom")[0] == 0  # the other one
        site.log.clear()
        return lock_part(part)

    monkeypatch.setattr(download, "lock_part", late)
    assert run("lsun", "bedroom")[0] == 0 and not site.log
    assert_complete()


def test_a_zip_file_with_data_mdb_at_its_top(run, site):
    site.files[NAME] = make_zip({"data.mdb": MDB})
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_part_left_beside_a_complete_file_is_removed(run, site):
    """As after a kill between the last two steps."""
    assert run("lsun", "bedroom")[0] == 0
    PART.write_bytes(b"part")
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_file_that_changed_meanwhile_is_found_damaged(run, site):
    site.script, site.always = [{"stop": 100_000}], {"stop": 0}
    assert run("lsun", "bedroom")[0] == 2
    site.always = {}
    site.files[NAME] = lsun_zip(os.urandom(len(MDB)))
    assert_refused(run("lsun", "bedroom"), "is damaged")


def test_a_part_longer_than_the_file_is_begun_again(run, site):
    PART.parent.mkdir()
    PART.write_bytes(GOOD + b"more")
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


@pytest.mark.parametrize("status", [501, 503])
@pytest.mark.parametrize("arrived", [0, 1000, len(GOOD)])
def test_a_server_that_answers_no_head_request_continues_a_part(run, site, status, arrived):
    site.head = {"status": status}
    PART.parent.mkdir()
    PART.write_bytes(GOOD[:arrived])
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_part_of_another_file_is_found_damaged(run, site):
    site.head = {"status": 501}
    PART.parent.mkdir()
    PART.write_bytes(bytes(1000))
    assert_refused(run("lsun", "bedroom"), "delete it and run the same command again")


def test_no_connection_costs_no_part(run, site):
    site.url = "http://127.0.0.1:9"
    PART.parent.mkdir()
    PART.write_bytes(GOOD[:1000])
    assert_refused(run("lsun", "bedroom"), "what has arrived is kept")
    assert PART.read_bytes() == GOOD[:1000]


def test_more_promised_than_there_is(run, site):
    site.head = site.always = {"lie": 1000}
    said = f"{len(GOOD):,} of {len(GOOD) + 1000:,} bytes have arrived"
    assert_refused(run("lsun", "bedroom"), said)
    assert PART.read_bytes() == GOOD


def test_less_promised_than_there_is(run, site):
    site.head = {"lie": -1000}
    said = f"{len(GOOD):,} of {len(GOOD) - 1000:,} bytes have arrived"
    assert_refused(run("lsun", "bedroom"), said)


def test_no_length_at_all(run, site):
    site.head = site.always = {"no_length": True}
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_login_page_does_not_replace_the_part(run, site):
    PART.parent.mkdir()
    PART.write_bytes(GOOD[:100_000])
    site.head = {"type": "text/html; charset=utf-8"}
    assert_refused(run("lsun", "bedroom"), "gave a web page")
    assert PART.read_bytes() == GOOD[:100_000] and not site.log


def test_a_web_page_in_place_of_the_file(run, site):
    site.head, site.files[NAME] = {"status": 405}, b"<html>please log in</html>"
    assert_refused(run("lsun", "bedroom"), "is a web page, not a zip file")


# Without curl


@pytest.fixture
def no_curl(monkeypatch):
    monkeypatch.setattr(download.shutil, "which", lambda name: None)


def test_without_curl_it_downloads_from_the_start(run, site, no_curl):
    PART.parent.mkdir()
    PART.write_bytes(GOOD[:100_000])
    assert_refused(run("lsun", "bedroom"), "only curl can continue lsun/bedroom_train_lmdb.part")
    assert PART.stat().st_size == 100_000
    PART.unlink()
    code, out, err = run("lsun", "bedroom")
    assert (code, err) == (0, "") and "curl not found" in out
    assert site.log == [(200, NAME, None)]
    assert_complete()


@pytest.mark.parametrize("how", [{"stop": 1000}, {"status": 500}])
def test_without_curl_a_break_is_one_line(run, site, no_curl, how):
    site.always = how
    assert_refused(run("lsun", "bedroom"), "run the same command again")
    site.always = {}
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


# Disk


@pytest.mark.parametrize("argv, copies", [(("lsun", "bedroom"), 2), (("hwdb1.0",), 1)])
def test_free_space_is_checked_first(run, site, monkeypatch, argv, copies):
    site.files |= {f"/{name}": GOOD for name in download.HWDB_ZIPS}
    free = copies * len(GOOD)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free - 1))
    answer = run(*argv)
    assert_refused(answer, "MB of space still needed")
    assert not list(Path().rglob("*.part"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    assert run(*argv)[0] == 0


def test_a_full_disk_is_one_line_and_no_reason_to_try_again(run, site):
    PART.parent.mkdir()
    PART.symlink_to("/dev/full")
    answer = run("lsun", "bedroom")
    assert_refused(answer, "cannot be written")
    assert "run the same command again to continue" in answer[2] and len(site.log) == 1
    PART.unlink(missing_ok=True)
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def test_a_break_while_unpacking_does_not_cost_the_download(run, site, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", interrupt)
        assert run("lsun", "bedroom")[0] == 130
    assert not Path("lsun/bedroom_train_lmdb/data.mdb").exists()
    assert run("lsun", "bedroom")[0] == 0 and len(site.log) == 1


def test_disk_full_while_unpacking_keeps_the_part(run, site, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    PART.parent.mkdir()
    PART.write_bytes(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "copyfileobj", full)
        assert_refused(
            run("lsun", "bedroom"), "cannot be unpacked (No space left on device); what has arrived is kept"
        )
    assert PART.read_bytes() == GOOD


def test_output_that_cannot_be_written(run, site):
    Path("lsun").write_text("a file")
    assert_refused(run("lsun", "bedroom"), "lsun")


# Damaged and hostile zip files


HOSTILE = {
    "bomb": (make_zip({"a/data.mdb": bytes(50_000_000)}), "more than 20 times"),
    "many files of zeros": (
        make_zip({f"a{i}/data.mdb": bytes(10**6) for i in range(9)}),
        "more than 20 times",
    ),
    "two": (make_zip({"a/data.mdb": MDB, "b/data.mdb": MDB}), "2 files data.mdb"),
    "none": (make_zip({"a/readme": MDB}), "0 files data.mdb"),
    "not a zip": (MDB, "is damaged"),
    "empty": (b"", "is damaged"),
    "cut": (GOOD[:-30], "is damaged"),
    "flipped bit": (GOOD[:5000] + bytes([GOOD[5000] ^ 1]) + GOOD[5001:], "is damaged"),
}


@pytest.mark.parametrize("content, text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_zip(run, site, content, text):
    site.files[NAME] = content
    answer = run("lsun", "bedroom")
    assert_refused(answer, text)
    assert {str(path) for path in Path().rglob("*") if path.is_file()} <= {str(PART)}
    assert run("lsun", "bedroom")[2] == answer[2]  # the same answer, without asking the server again ...
    requests = len(site.log)
    PART.unlink(missing_ok=True)  # ... until the file is deleted
    site.files[NAME] = GOOD
    assert run("lsun", "bedroom")[0] == 0
    assert len(site.log) == requests + 1
    assert_complete()


@pytest.mark.parametrize("name", ["../data.mdb", "../../data.mdb", "/tmp/data.mdb", "C:/x/data.mdb"])
def test_a_name_in_the_zip_file_does_not_choose_where_it_is_written(run, site, name):
    site.files[NAME] = make_zip({name: MDB, "../lock.mdb": b"lock"})
    assert run("lsun", "bedroom")[0] == 0
    assert_complete()


def lying_directory(size: int) -> bytes:
    """A zip file whose directory gives data.mdb fewer bytes than it has."""
    content = bytearray(make_zip({"a/data.mdb": MDB}))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    return bytes(content)


@pytest.mark.parametrize("size", [100, len(MDB) - 1])
def test_a_file_with_more_bytes_than_declared(run, site, size):
    site.files[NAME] = lying_directory(size)
    assert_refused(run("lsun", "bedroom"), "is damaged")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
@example([(318, 192)], False)  # a directory that starts before the file: EINVAL, no fault of the disk
def test_any_damage_is_one_error_or_does_no_harm(tmp_path, changes, lmdb):
    small = bytes(range(100))
    content = bytearray(make_zip({"a/data.mdb": small, "a/lock.mdb": b"lock"}))
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path / "x.zip.part"
    path.write_bytes(content)
    try:
        download.unpack_data(path, tmp_path) if lmdb else download.check_crcs(path)
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert not lmdb or (tmp_path / "data.mdb").read_bytes() == small


def test_a_line_break_in_a_name_does_not_break_the_line(tmp_path):
    path = tmp_path / "x.zip.part"
    path.write_bytes(make_zip({"a\nb": b"content"}, zipfile.ZIP_STORED).replace(b"content", b"CONTENT"))
    with pytest.raises(DataError, match=r"wrong CRC of 'a\\nb'"):
        download.check_crcs(path)


# HWDB


@pytest.fixture
def characters(site):
    site.files |= {
        f"/{name}": make_zip({f"{name[:-4]}/001.gnt": name.encode() * 9}) for name in download.HWDB_ZIPS
    }
    return site


def test_hwdb_keeps_the_zip_files(run, characters):
    code, out, err = run("hwdb1.0")
    assert (code, err) == (0, "")
    assert out.endswith("complete; next: python lsgan_cond_chars.py --data hwdb1.0\n")
    assert sorted(path.name for path in Path("hwdb1.0").iterdir()) == sorted(download.HWDB_ZIPS)
    assert all(
        Path("hwdb1.0", name).read_bytes() == characters.files[f"/{name}"] for name in download.HWDB_ZIPS
    )


def test_hwdb_downloads_only_what_is_missing(run, characters):
    run("hwdb1.0")
    Path("hwdb1.0", download.HWDB_ZIPS[2]).unlink()
    Path("hwdb1.0", download.HWDB_ZIPS[0]).write_bytes(b"mine")
    characters.log.clear()
    assert run("hwdb1.0")[0] == 0
    assert [entry[1] for entry in characters.log] == [f"/{download.HWDB_ZIPS[2]}"]
    assert Path("hwdb1.0", download.HWDB_ZIPS[0]).read_bytes() == b"mine"


@pytest.mark.parametrize("damage", ["flipped bit", "bomb"])
def test_hwdb_gives_no_final_name_to_a_bad_zip(run, characters, damage):
    name = download.HWDB_ZIPS[1]
    characters.files[f"/{name}"], text = HOSTILE[damage]
    assert_refused(run("hwdb1.0"), text)
    assert Path("hwdb1.0", download.HWDB_ZIPS[0]).exists() and not Path("hwdb1.0", name).exists()


def test_hwdb_names_the_tool_for_alz(run, characters):
    characters.files[f"/{download.HWDB_ZIPS[3]}"] = make_zip({"Gnt1.0Test.alz": b"ALZ\x01"})
    code, out, _ = run("hwdb1.0")
    assert code == 0 and "'Gnt1.0Test.alz', an ALZip archive: unpack that with the program unalz" in out


# Command line


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("imagenet",),
        ("lsun",),
        ("lsun", "../bedroom"),
        ("lsun", ""),
        ("lsun", "bedroom", "--split", "test"),
        ("lsun", "bedroom", "--ou", "x"),
        ("hwdb1.0", "bedroom"),
    ],
)
def test_bad_command_line(run, site, argv):
    assert_refused(run(*argv), "")
    assert not list(Path().iterdir()) and site.log == []


def test_help_shows_the_defaults(run):
    code, out, _ = run("--help")
    assert code == 0 and "unset: train" in out and "unset: the dataset's name" in out
