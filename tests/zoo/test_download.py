"""Downloads by https-like and file links; the tests' server speaks plain HTTP on 127.0.0.1."""

import errno
import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.zoo.released import register_narrow
from zoo import downloader as fetching
from zoo.downloader import Network, cache_dir

CONTENT = np.random.default_rng(1).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
QUICK = Network(attempts=3, back_off=0.01, timeout=5)


class Site:
    """One file over HTTP; attributes as in `MegaServer`."""

    def __init__(self):
        self.content, self.etag = CONTENT, '"v1"'
        self.status: list[int] = []
        self.cut_after, self.cut_times = 0, 0
        self.extra = b""
        self.announce_length = True
        self.log: list[str] = []

    def __enter__(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                site.send(self)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/file"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def send(self, request):
        self.log.append(request.headers.get("Range", "all"))
        if self.status:
            request.send_error(self.status.pop(0))
            return
        same = request.headers.get("If-Range", self.etag) == self.etag
        wanted = request.headers.get("Range") if same else None
        start = int(wanted[6:-1]) if wanted else 0
        request.send_response(206 if start else 200)
        if start:
            size = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if self.announce_length:
            request.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        stop = None
        if self.cut_times:
            self.cut_times -= 1
            stop = start + self.cut_after
        request.wfile.write(self.content[start:stop] + self.extra)


@pytest.fixture
def site():
    with Site() as running:
        yield running


def fetch(*links, **fields):
    register_narrow(links=links, **fields)
    return zoo.download("narrow", network=QUICK)


def leftovers(cache):
    return sorted(path.name for path in (cache / "narrow").iterdir() if not path.name.endswith(".lock"))


def test_good_download_is_recorded_and_checked_from_then_on(site, cache):
    path = fetch(site.url)
    assert path.read_bytes() == CONTENT
    assert (cache / "narrow" / "narrow.bin.sha256").read_text() == f"{SHA}  narrow.bin\n"
    assert leftovers(cache) == ["narrow.bin", "narrow.bin.sha256"]
    path.unlink()
    site.content = CONTENT[:-1] + b"?"
    with pytest.raises(
        zoo.DownloadError, match=f"expected {SHA}; if its owner has replaced it, delete .*sha256"
    ):
        fetch(site.url)
    assert leftovers(cache) == ["narrow.bin.sha256"]


def test_a_damaged_cached_file_is_fetched_again(site):
    path = fetch(site.url, sha256=SHA)
    path.write_bytes(CONTENT[:100])
    assert fetch(site.url, sha256=SHA).read_bytes() == CONTENT


def test_wrong_hash_leaves_nothing_behind(site, cache):
    with pytest.raises(zoo.DownloadError, match=f"its SHA-256 is {SHA}, expected 0000"):
        fetch(site.url, sha256="0" * 64)
    assert leftovers(cache) == []


def test_mirrors_are_tried_in_order(site, tmp_path):
    (tmp_path / "local.bin").write_bytes(CONTENT)
    site.status = [404]
    path = fetch("file:///nowhere/at/all", site.url, (tmp_path / "local.bin").as_uri(), sha256=SHA)
    assert path.read_bytes() == CONTENT
    assert site.log == ["all"]


def test_when_all_mirrors_fail_each_says_why(site):
    site.status = [404]
    with pytest.raises(zoo.DownloadError) as caught:
        fetch("file:///nowhere/at/all", site.url)
    message = str(caught.value)
    assert "there is no file /nowhere/at/all" in message
    assert "HTTP 404" in message
    assert "--from_file" in message


def test_file_link(tmp_path):
    (tmp_path / "with space.bin").write_bytes(CONTENT)
    assert fetch((tmp_path / "with space.bin").as_uri()).read_bytes() == CONTENT
    with pytest.raises(zoo.DownloadError, match="300000 bytes where 5 were promised"):
        fetch((tmp_path / "with space.bin").as_uri(), size=5, file_name="other.bin")


def test_resume_after_broken_connections(site):
    site.cut_after, site.cut_times = 120_000, 2
    assert fetch(site.url).read_bytes() == CONTENT
    assert site.log == ["all", "bytes=120000-", "bytes=240000-"]


def test_a_file_replaced_meanwhile_is_never_mixed(site):
    site.cut_after, site.cut_times = 120_000, 1
    register_narrow(links=(site.url,))
    with pytest.raises(zoo.DownloadError):
        zoo.download("narrow", network=Network(attempts=1))
    site.content, site.etag = CONTENT[::-1], '"v2"'
    assert fetch(site.url).read_bytes() == CONTENT[::-1]


def test_without_validator_and_hash_nothing_is_resumed(site):
    site.etag, site.cut_after, site.cut_times = "", 120_000, 1
    assert fetch(site.url).read_bytes() == CONTENT
    assert site.log == ["all", "all"]


def test_transient_errors_are_tried_again_and_final_ones_are_not(site):
    site.status = [503, 429]
    assert fetch(site.url).read_bytes() == CONTENT
    site.status, site.log = [403], []
    register_narrow(name="other", links=(site.url,))
    with pytest.raises(zoo.DownloadError, match="HTTP 403"):
        zoo.download("other", network=QUICK)
    assert len(site.log) == 1


@pytest.mark.parametrize("announce", [True, False])
def test_wrong_size(site, announce):
    site.announce_length = announce
    site.extra = b"" if announce else b"more"
    with pytest.raises(zoo.DownloadError, match=r"offers 300000 bytes where 299999|more than 299999 bytes"):
        fetch(site.url, size=299_999)


def test_a_file_of_unknown_length_and_hash_is_refused(site, cache):
    """A connection that closes early could not be told from the end."""
    site.announce_length, site.cut_after, site.cut_times = False, 1000, 1
    with pytest.raises(zoo.DownloadError, match="does not say how long"):
        fetch(site.url)
    assert "narrow.bin" not in leftovers(cache)


def test_offline(site, monkeypatch, tmp_path):
    monkeypatch.setenv("RFD_TF_OFFLINE", "1")
    with pytest.raises(zoo.DownloadError, match=r"RFD_TF_OFFLINE forbids the network[\s\S]*--from_file"):
        fetch(site.url)
    assert site.log == []
    (tmp_path / "local.bin").write_bytes(CONTENT)
    fetch(site.url, (tmp_path / "local.bin").as_uri())
    assert fetch(site.url).read_bytes() == CONTENT, "what is cached can be used offline"


def test_full_disk_before_the_download(site, cache, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        zoo.DownloadError, match=r"disk is too full: 300,000 bytes are needed, 1,000 are free"
    ):
        fetch(site.url)
    assert "narrow.bin" not in leftovers(cache)


def test_full_disk_during_the_download(site, cache):
    """A real limit of the system: no file of that process may grow beyond 100 kB."""
    code = (
        "import resource, signal, zoo; from tests.zoo.released import register_narrow;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"register_narrow(links=({site.url!r},));"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "zoo.download('narrow')"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert out.returncode == 1
    assert "DownloadError: narrow: the disk is full" in out.stderr
    assert "narrow.bin" not in leftovers(cache)
    assert fetch(site.url).read_bytes() == CONTENT


def test_no_space_left(site, cache, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "_write", full)
    with pytest.raises(zoo.DownloadError, match="the disk is full or a quota is used up"):
        fetch(site.url)
    assert "narrow.bin" not in leftovers(cache)


def test_entries_without_link():
    with pytest.raises(zoo.DownloadError, match=r"cifar_resnet20 has no link.*--from_file"):
        zoo.download("cifar_resnet20")


def test_cache_folder(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache" / "zoo"
    monkeypatch.delenv("RFD_TF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    assert tmp_path / "user" in cache_dir().parents


def test_progress_bar(site, capsys):
    register_narrow(links=(site.url,))
    zoo.download("narrow", network=Network(progress=True))
    assert "300k/300k" in capsys.readouterr().err
