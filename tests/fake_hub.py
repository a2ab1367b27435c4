"""A Hub for tests: a server on loopback that the real clients talk to. Everything lies in memory; downloads only.

Run in a process of its own, whose environment names the server before `datasets` and `huggingface_hub` are imported.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

Answer = tuple[int, bytes, dict[str, str]]


class FakeHub:
    """Data sets by id, each with one commit; `denied` maps an id to the error code that the Hub answers instead."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.denied: dict[str, tuple[int, str]] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body, headers = hub.answer(unquote(urlparse(self.path).path), self.headers.get("Range"))
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_HEAD = _answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def commit_of(self, repo_id: str) -> str:
        """The one commit of a data set."""
        return hashlib.sha1(repo_id.encode()).hexdigest()

    def answer(self, path: str, byte_range: str | None) -> Answer:
        """Status, body and headers for a request."""
        found = re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+))?(?:/(.*))?)?", path)
        if not found:
            return _error(404, "EntryNotFound")
        repo_id, kind, revision, rest = found[1], found[2] or "", found[3] or "main", found[4] or ""
        if repo_id in self.denied:
            return _error(*self.denied[repo_id])
        if repo_id not in self.files:
            return _error(404, "RepoNotFound")
        commit = self.commit_of(repo_id)
        if revision not in ("main", commit):
            return _error(404, "RevisionNotFound")
        files = self.files[repo_id]
        if kind == "resolve":
            return _file(files.get(rest), byte_range, commit)
        if kind == "tree":
            return _tree(files, rest.strip("/"))
        if kind == "paths-info":
            return _json([_entry(name, content) for name, content in files.items()])
        siblings = [{"rfilename": name} for name in files]
        return _json({"id": repo_id, "_id": "1", "sha": commit, "private": False, "tags": [], "siblings": siblings})


def _json(value: Any) -> Answer:
    return 200, json.dumps(value).encode(), {}


def _error(status: int, code: str) -> Answer:
    return status, b'{"error": "refused"}', {"X-Error-Code": code, "X-Error-Message": "refused"}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _tree(files: dict[str, bytes], folder: str) -> Answer:
    inside = {name: content for name, content in files.items() if not folder or name.startswith(f"{folder}/")}
    if folder and not inside:
        return _error(404, "EntryNotFound")
    parents = {"/".join(name.split("/")[:depth]) for name in inside for depth in range(1, name.count("/") + 1)} - {folder}
    folders = [{"type": "directory", "path": parent, "size": 0, "oid": "0" * 40} for parent in sorted(parents)]
    return _json(folders + [_entry(name, content) for name, content in inside.items()])


def _file(content: bytes | None, byte_range: str | None, commit: str) -> Answer:
    if content is None:
        return _error(404, "EntryNotFound")
    etag = hashlib.sha1(content).hexdigest()
    headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "text/plain"}
    if byte_range is None:
        return 200, content, headers
    first, last = byte_range.removeprefix("bytes=").split("-")
    start, stop = int(first), min(int(last or len(content)), len(content) - 1)
    return 206, content[start : stop + 1], {**headers, "Content-Range": f"bytes {start}-{stop}/{len(content)}"}
