"""The MEGA client against a service of its own on 127.0.0.1."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import zoo
from tests.zoo.mega_server import MegaServer
from tests.zoo.released import register_narrow
from zoo.downloader import Network
from zoo.mega import MegaLink, chunk_sizes

ROOT = Path(__file__).parents[2]
PLAIN = np.random.default_rng(0).bytes(700_003)  # three chunks and a bit, no multiple of 16


@pytest.fixture
def server():
    with MegaServer(PLAIN) as running:
        yield running


def fetch(server, link=None, **fields):
    register_narrow(links=(link or server.link(),), **fields)
    return zoo.download("narrow", network=Network(server.api, attempts=3, back_off=0.01, timeout=5))


def assert_nothing_final(cache):
    assert not (cache / "narrow" / "narrow.bin").exists()
    assert not (cache / "narrow" / "narrow.bin.sha256").exists()


@pytest.mark.parametrize("new", [False, True], ids=["old link", "new link"])
def test_good_download(server, new, cache):
    path = fetch(server, server.link(new=new))
    assert path == cache / "narrow" / "narrow.bin"
    assert path.read_bytes() == PLAIN
    assert fetch(server) == path
    assert server.log == [0], "the second time it comes from the cache"
    assert not list(path.parent.glob(".*.part*"))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 131072, 131073, 131072 * 36 + 5, 131072 * 44 + 1])
def test_every_shape_of_the_last_chunk(size):
    with MegaServer(np.random.default_rng(size).bytes(size)) as server:
        assert fetch(server).read_bytes() == server.plain


def test_chunks_grow_to_one_mebibyte():
    sizes = list(chunk_sizes(10 << 20))
    assert [size >> 17 for size in sizes[:10]] == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]
    assert sum(sizes) == 10 << 20


def test_the_released_links_have_the_form():
    for name in zoo.list():
        for link in zoo.info(name).links:
            parsed = MegaLink.parse(link)
            assert (len(parsed.key), len(parsed.nonce), len(parsed.mac)) == (16, 8, 8)


def test_a_broken_connection_is_resumed(server):
    server.cut_after, server.cut_times = 200_001, 2
    assert fetch(server).read_bytes() == PLAIN
    assert server.log == [0, 200_000, 400_000], "each resumes at the last whole block of 16 bytes"


def test_a_server_that_ignores_ranges_starts_over(server):
    server.cut_after, server.cut_times, server.ranges_ignored = 200_001, 1, True
    assert fetch(server).read_bytes() == PLAIN
    assert server.log == [0, 0]


def test_a_download_that_never_gets_on_is_given_up(server, cache):
    server.cut_after, server.cut_times = 0, 99
    with pytest.raises(zoo.DownloadError, match="given up after 3 attempts"):
        fetch(server)
    assert_nothing_final(cache)


def test_wrong_mac_is_refused(server, cache):
    with pytest.raises(zoo.DownloadError, match="does not have the MAC in the link's key"):
        fetch(server, server.link(mac=b"wrongmac"))
    assert_nothing_final(cache)
    assert not list((cache / "narrow").glob(".*.part"))


def test_tampered_content_is_refused(server, cache):
    server.tamper = True
    with pytest.raises(zoo.DownloadError, match="does not have the MAC"):
        fetch(server)
    assert_nothing_final(cache)


def test_a_damaged_beginning_is_fetched_anew(server, cache):
    server.cut_after, server.cut_times = 200_000, 99
    register_narrow(links=(server.link(),))
    with pytest.raises(zoo.DownloadError):
        zoo.download("narrow", network=Network(server.api, attempts=1))
    (part,) = (cache / "narrow").glob(".*.part")
    part.write_bytes(bytes(part.stat().st_size))
    server.cut_times = 0
    assert fetch(server).read_bytes() == PLAIN
    assert server.log[-2:] == [200_000, 0]


def test_wrong_key_is_refused_before_the_download(server, cache):
    with pytest.raises(zoo.DownloadError, match="key in the MEGA link does not fit"):
        fetch(server, server.link(key=bytes(16)))
    assert server.log == []
    assert_nothing_final(cache)


@pytest.mark.parametrize(
    "link",
    [
        "https://mega.nz/#!abc!short",
        "https://mega.nz/folder/abc#" + "A" * 43,
        "https://mega.nz/file/abc",
        "https://mega.nz/#!abc!" + "A" * 45,
    ],
)
def test_malformed_links(server, link):
    with pytest.raises(zoo.DownloadError, match=r"MEGA|base64"):
        fetch(server, link)
    assert server.questions == []


@pytest.mark.parametrize("bare", [False, True], ids=["in the list", "bare"])
@pytest.mark.parametrize(
    ("code", "words", "asked"),
    [
        (-2, "does not understand", 1),
        (-3, "try again later", 3),
        (-4, "limits the rate", 3),
        (-9, "does not have the file", 1),
        (-11, "denies access", 1),
        (-16, "blocked", 1),
        (-17, "quota", 1),
        (-18, "temporarily unavailable", 3),
        (-99, "refuses", 1),
    ],
)
def test_error_codes_in_plain_words(server, cache, code, words, asked, bare):
    server.answers = [code if bare else [code]] * 5
    with pytest.raises(zoo.DownloadError, match=words) as caught:
        fetch(server)
    assert f"(error {code})" in str(caught.value)
    assert "--from_file" in str(caught.value)
    assert len(server.questions) == asked, "only what may pass is tried again"
    assert_nothing_final(cache)


def test_try_again_passes(server):
    server.answers = [[-3], -4]
    assert fetch(server).read_bytes() == PLAIN


@pytest.mark.parametrize("answer", [[], [{}], {"s": 3}, [{"s": "3", "g": "u", "at": "x"}], b"<html>", [[-3]]])
def test_answers_that_are_not_understood(server, answer):
    server.answers = [answer]
    with pytest.raises(zoo.DownloadError, match="not understood"):
        fetch(server)


def test_bandwidth_quota(server, cache):
    server.status = [509]
    with pytest.raises(zoo.DownloadError, match=r"quota for your address is used up.*HTTP 509"):
        fetch(server)
    assert_nothing_final(cache)


def test_server_errors_are_tried_again(server):
    server.api_status, server.status = [503], [500]
    assert fetch(server).read_bytes() == PLAIN


def test_no_service(cache):
    register_narrow(links=(MegaServer(b"x").link(),))
    with pytest.raises(zoo.DownloadError, match="MEGA does not answer"):
        zoo.download("narrow", network=Network("http://127.0.0.1:9/cs", attempts=2, back_off=0.01))
    assert_nothing_final(cache)


def test_the_promised_size_is_checked_first(server):
    with pytest.raises(zoo.DownloadError, match="offers 700003 bytes where 5 were promised"):
        fetch(server, size=5)
    assert server.log == []


def start_process(server, **environment):
    code = (
        "import zoo; from tests.zoo.released import register_narrow;"
        f"register_narrow(links=({server.link()!r},)); print(zoo.download('narrow'))"
    )
    environment = {**os.environ, "RFD_TF_MEGA_API": server.api, **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_two_processes_at_once_download_once(server):
    server.bytes_per_second = 700_000
    processes = [start_process(server) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert Path(outputs[0]).read_bytes() == PLAIN
    assert server.log == [0]


def test_killed_in_the_middle_and_resumed(server, cache):
    server.bytes_per_second = 200_000
    process = start_process(server)
    folder = cache / "narrow"
    try:
        wait_for(lambda: any(part.stat().st_size > 150_000 for part in folder.glob(".*.part")))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert_nothing_final(cache)
    server.bytes_per_second = 0
    assert fetch(server).read_bytes() == PLAIN
    assert len(server.log) == 2
    assert server.log[1] >= 150_000 // 16 * 16, "it went on from where it was"
