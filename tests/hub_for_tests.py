"""A hub on this machine that speaks the addresses of Hugging Face's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the folders ORG/NAME below ``root``; those of ``gated`` want a licence to be accepted."""

    daemon_threads = True

    def __init__(self, root: Path, gated: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.root, self.gated = root, gated
        self.asked: list[str] = []
        """Paths, in the order in which they were asked for with GET."""

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(root: Path, gated: tuple[str, ...] = ()) -> Iterator[Hub]:
    """A hub while it runs."""
    hub = Hub(root, gated)
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """A repository's list, or a file."""
        self.server.asked.append(self.path)
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """The same without its content."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_list = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if is_list else parts[:2])
        folder = self.server.root / repository
        if not repository or not folder.is_dir():
            self._refuse(401, "RepoNotFound", with_body)  # as the hub says to those who are not logged in
            return
        if repository in self.server.gated and not is_list:
            self._refuse(403, "GatedRepo", with_body)
            return
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        if is_list:
            content = self._list(parts[4:], repository, folder, files)
            self._send(json.dumps(content).encode(), {"Content-Type": "application/json"}, with_body)
            return
        name = "/".join(parts[4:])
        if parts[2] != "resolve" or name not in files:
            self._refuse(404, "EntryNotFound", with_body)
            return
        body = (folder / name).read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        self._send(body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, with_body)

    def _list(self, rest: list[str], repository: str, folder: Path, files: list[str]) -> object:
        if rest[:1] == ["tree"]:
            return [
                {"type": "file", "path": file, "size": (folder / file).stat().st_size, "oid": file} for file in files
            ]
        return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "private": False}

    def _refuse(self, status: int, code: str, with_body: bool) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, with_body, status)

    def _send(self, body: bytes, headers: dict[str, str], with_body: bool, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)
