"""MEGA's service on 127.0.0.1: API, encrypted content, range requests, and its ways to fail.

The encryption is written from the format's description with single AES blocks, independently of `zoo`.
"""

import base64
import json
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HANDLE = "Wmh3TEST"


def _aes(key: bytes):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def encrypted(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    blocks = -(-len(plain) // 16)
    stream = _aes(key)(b"".join(nonce + struct.pack(">Q", block) for block in range(blocks)))
    return (np.frombuffer(plain, "u1") ^ np.frombuffer(stream[: len(plain)], "u1")).tobytes()


def mac_of(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    aes, total, position, size = _aes(key), bytes(16), 0, 0
    while position < len(plain):
        size = min(size + 131072, 1048576)
        chunk_mac = nonce + nonce
        chunk = plain[position : position + size]
        chunk += bytes(-len(chunk) % 16)
        for block in range(0, len(chunk), 16):
            chunk_mac = aes(_xor(chunk_mac, chunk[block : block + 16]))
        total = aes(_xor(total, chunk_mac))
        position += size
    m = struct.unpack(">4I", total)
    return struct.pack(">2I", m[0] ^ m[1], m[2] ^ m[3])


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class MegaServer:
    """Serves one file.

    Attributes that a test sets: `answers` (queued API answers before the true one), `api_status`, `status`
    (queued HTTP codes of the content), `cut_after` (bytes after which each connection breaks, for
    `cut_times` connections), `bytes_per_second`, `tamper` (flip a bit of the content), `ranges_ignored`.
    `log` holds the first byte of every content request that was answered, `questions` the API's.
    """

    def __init__(self, plain: bytes, key: bytes = bytes(range(16)), nonce: bytes = b"nonce678"):
        self.plain = plain
        self.key, self.nonce = key, nonce
        self.cipher = encrypted(key, nonce, plain)
        attributes = b'MEGA{"n": "file.bin"}'
        attributes += bytes(-len(attributes) % 16)
        self.attributes = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor().update(attributes)
        self.answers: list = []
        self.api_status: list[int] = []
        self.status: list[int] = []
        self.cut_after, self.cut_times = 0, 0
        self.bytes_per_second = 0
        self.tamper = self.ranges_ignored = False
        self.log: list[int] = []
        self.questions: list = []

    def link(self, *, new=False, mac: bytes | None = None, key: bytes | None = None) -> str:
        packed = self.nonce + (mac or mac_of(self.key, self.nonce, self.plain))
        text = _base64(_xor(key or self.key, packed) + packed)
        return f"https://mega.nz/file/{HANDLE}#{text}" if new else f"https://mega.nz/#!{HANDLE}!{text}"

    def __enter__(self) -> "MegaServer":
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                server._answer_question(self)

            def do_GET(self):
                server._send_content(self)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._http.server_port}"
        self.api = f"{self.root}/cs"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def _answer_question(self, request):
        question = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.questions.append(question)
        status = self.api_status.pop(0) if self.api_status else 200
        answer = [{"s": len(self.plain), "at": _base64(self.attributes), "g": f"{self.root}/dl/secret"}]
        if question != [{"a": "g", "g": 1, "p": HANDLE}]:
            answer = [-9]
        if self.answers:
            answer = self.answers.pop(0)
        body = json.dumps(answer).encode() if not isinstance(answer, bytes) else answer
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _send_content(self, request):
        if self.status:
            request.send_response(self.status.pop(0))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = 0
        if (header := request.headers.get("Range")) and not self.ranges_ignored:
            start = int(header.removeprefix("bytes=").removesuffix("-"))
        self.log.append(start)
        content = bytearray(self.cipher)
        if self.tamper:
            content[len(content) // 2] ^= 1
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        stop = len(content)
        if self.cut_times:
            self.cut_times -= 1
            stop = min(stop, start + self.cut_after)
        self._send(request, bytes(content[start:stop]))
        request.close_connection = True

    def _send(self, request, data: bytes):
        piece = self.bytes_per_second // 20 or len(data) or 1
        try:
            for position in range(0, len(data), piece):
                request.wfile.write(data[position : position + piece])
                request.wfile.flush()
                if self.bytes_per_second:
                    time.sleep(0.05)
        except OSError:
            pass  # the client went away
