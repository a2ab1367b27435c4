"""A Hub for tests: a server on loopback that the real clients talk to. Everything lies in memory; data sets only.

Two ways to use it:

- `FakeHub()` in the process of the clients, whose environment names `hub.url` before `datasets` and `huggingface_hub` are
  imported; `hub.files = {"me/name": {"train.jsonl": b"..."}}` gives data sets of one commit each.
- `HubProcess()` starts it as a process of its own, for pushes that are killed and for pytest, which may open no sockets: it is
  told what to do by lines of JSON on its standard input, and ends when that is closed.

Repositories have a history of commits, branches, tags and a visibility; a commit is applied whole or not at all. `Fault`s are
injected by route and count. Not there: Xet (clients need HF_HUB_DISABLE_XET=1), pull requests, models and spaces.
"""

import base64
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

Answer = tuple[int, bytes, dict[str, str]]
LARGE = (".parquet", ".bin", ".safetensors", ".arrow")
PAGE = 1000


@dataclass(frozen=True)
class Large:
    """A file whose bytes lie in the store of large files, under their sha256."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Commit:
    """One commit: everything that the repository shows at it."""

    sha: str
    parent: str | None
    files: dict[str, bytes | Large]
    title: str
    message: str = ""


@dataclass
class Repo:
    """A data set with its history."""

    private: bool
    commits: dict[str, Commit]
    branches: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names; None where there is no such thing."""
        named = self.branches.get(revision) or self.tags.get(revision) or revision
        return named if named in self.commits else None

    def history(self, sha: str) -> Iterator[Commit]:
        """A commit and its ancestors, last first."""
        following: str | None = sha
        while following is not None:
            commit = self.commits[following]
            yield commit
            following = commit.parent


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD path` the route (a regular expression) is found in, `times` times.

    `status` is answered instead of doing what was asked. `drop` closes the connection before or after it was done, or midway
    through the answer. `wait_s` delays the doing, `stall_s` only the answer. `swap` replaces text in the answer, and `corrupt`
    changes a byte of what is uploaded.
    """

    route: str
    times: int = 1
    skip: int = 0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error": "injected"}'
    drop: str | None = None
    wait_s: float = 0.0
    stall_s: float = 0.0
    swap: tuple[str, str] | None = None
    corrupt: bool = False

    def takes(self, request: str) -> bool:
        """Whether this request is one that goes wrong; counts."""
        if self.times <= 0 or not re.search(self.route, request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class _Heads(MutableMapping[str, dict[str, Any]]):
    """The files of every data set's main branch, by id; setting one gives the data set one commit of them."""

    def __init__(self, hub: "FakeHub") -> None:
        self._hub = hub

    def __getitem__(self, repo_id: str) -> dict[str, Any]:
        repo = self._hub.repos[repo_id]
        return repo.commits[repo.branches["main"]].files

    def __setitem__(self, repo_id: str, files: dict[str, Any]) -> None:
        sha = hashlib.sha1(repo_id.encode()).hexdigest()
        self._hub.repos[repo_id] = Repo(False, {sha: Commit(sha, None, files, "initial commit")}, {"main": sha})

    def __delitem__(self, repo_id: str) -> None:
        del self._hub.repos[repo_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hub.repos)

    def __len__(self) -> int:
        return len(self._hub.repos)


class FakeHub:
    """Data sets by id; `denied` maps an id to the error code that the Hub answers instead.

    `tokens` maps the tokens that are known to `write` or `read`; None means that any token may write, and that none is asked
    for when reading. `owners` are the names below which a token may create. Larger files than `part_bytes` are uploaded in parts.
    """

    def __init__(self) -> None:
        self.reset()
        self._lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Forget everything, and do nothing out of the ordinary."""
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.denied: dict[str, tuple[int, str]] = {}
        self.faults: list[Fault] = []
        self.log: list[dict[str, Any]] = []
        self.tokens: dict[str, str] | None = None
        self.owners: list[str] = ["me"]
        self.ignored: list[str] = []
        self.part_bytes: int | None = None
        self.page_entries = PAGE
        self.wait_s = 0.0
        self.creates_as: bool | None = None
        self._parts: dict[str, dict[int, bytes]] = {}

    @property
    def files(self) -> _Heads:
        """The files of every data set's main branch."""
        return _Heads(self)

    @files.setter
    def files(self, files: dict[str, dict[str, bytes]]) -> None:
        self.repos = {}
        for repo_id, listed in files.items():
            self.files[repo_id] = listed

    def commit_of(self, repo_id: str) -> str:
        """The commit that a data set's main branch shows; the one that it would get when none is there."""
        repo = self.repos.get(repo_id)
        return repo.branches["main"] if repo else hashlib.sha1(repo_id.encode()).hexdigest()

    def fault_for(self, request: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self._lock:
            return next((fault for fault in self.faults if fault.takes(request)), None)

    def put(self, repo_id: str, files: dict[str, bytes | None], *, branch: str = "main", title: str = "by hand") -> str:
        """Commit as somebody else would, in a browser; None deletes. Returns the commit."""
        with self._lock:
            repo = self.repos[repo_id]
            shown = {**repo.commits[repo.branches[branch]].files, **files}
            return self._advance(repo, branch, {k: v for k, v in shown.items() if v is not None}, title, "")

    def create(self, repo_id: str, *, private: bool = False) -> None:
        """An empty data set, as the Hub begins one."""
        sha = hashlib.sha1(f"{repo_id} begins".encode()).hexdigest()
        files: dict[str, bytes | Large] = {".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"}
        self.repos[repo_id] = Repo(private, {sha: Commit(sha, None, files, "initial commit")}, {"main": sha})

    def content(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file of a revision, with the bytes of large ones."""
        repo = self.repos[repo_id]
        files = repo.commits[repo.sha(revision) or ""].files
        return {path: self.blobs[what.sha256] if isinstance(what, Large) else what for path, what in files.items()}

    def state(self) -> dict[str, Any]:
        """Everything a test asks about, as JSON: sha256 of every file at every head, histories, tags, the requests so far."""
        with self._lock:
            return {"repos": {name: self._described(name, repo) for name, repo in self.repos.items()}, "log": list(self.log)}

    def _described(self, name: str, repo: Repo) -> dict[str, Any]:
        heads = {
            branch: {path: hashlib.sha256(data).hexdigest() for path, data in self.content(name, sha).items()}
            for branch, sha in repo.branches.items()
        }
        history = {
            branch: [asdict(c) | {"files": sorted(c.files)} for c in repo.history(sha)] for branch, sha in repo.branches.items()
        }
        return {"private": repo.private, "heads": heads, "history": history, "branches": repo.branches, "tags": repo.tags}

    def _advance(self, repo: Repo, branch: str, files: dict[str, Any], title: str, message: str) -> str:
        head = repo.branches[branch]
        sha = hashlib.sha1(f"{head} {title} {len(repo.commits)}".encode()).hexdigest()
        repo.commits[sha] = Commit(sha, head, files, title, message)
        repo.branches[branch] = sha
        return sha

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes, headers: Any, corrupt: bool = False
    ) -> Answer:
        """Status, body and headers for a request."""
        token = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if refused := self._refused(method, path, token):
            return refused
        with self._lock:
            if path == "/api/whoami-v2":
                return _json({"name": self.owners[0], "type": "user", "orgs": [], "auth": {"type": "access_token"}})
            if path == "/api/validate-yaml":
                return _json({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self._create(json.loads(body))
            if found := re.fullmatch(r"/(lfs|lfs-part|lfs-complete|lfs-verify)(?:/(.*))?", path):
                return self._store(found[1], found[2] or "", body, corrupt)
            if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                return self._batch(json.loads(body))
            found = re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+))?(?:/(.*))?)?", path)
            if not found:
                return _error(404, "EntryNotFound")
            revision, rest = unquote(found[3] or "main"), unquote(found[4] or "")
            return self._about(method, found[1], found[2] or "", revision, rest, query, body, headers, token)

    def _refused(self, method: str, path: str, token: str) -> Answer | None:
        # Presigned addresses carry no token.
        if self.tokens is None or path.startswith(("/lfs/", "/lfs-part/", "/lfs-complete/")):
            return None
        role = self.tokens.get(token)
        if token and role is None:
            return _error(401, "", f"Invalid credentials in Authorization header: {token}")
        if role != "write" and method in ("POST", "DELETE", "PUT") and "paths-info" not in path:
            return _error(403 if token else 401, "", "This token may not write")
        return None

    def _about(
        self,
        method: str,
        repo_id: str,
        kind: str,
        revision: str,
        rest: str,
        query: Any,
        body: bytes,
        headers: Any,
        token: str,
    ) -> Answer:
        if repo_id in self.denied:
            return _error(*self.denied[repo_id])
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and self.tokens is not None and not token):
            return _error(404 if token or self.tokens is None else 401, "RepoNotFound", "Repository not found")
        if kind == "refs":
            return _refs(repo)
        if kind == "branch":
            return self._branch(method, repo, revision, json.loads(body or b"{}"))
        sha = repo.sha(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo.commits[sha].files
        if kind == "resolve":
            return self._file(files.get(rest), headers.get("Range"), sha)
        if kind == "tree":
            return self._tree(f"/api/datasets/{repo_id}/tree/{revision}/{rest}", files, rest.strip("/"), query)
        if kind == "paths-info":
            return _json(
                [_entry(path, files[path]) for path in parse_qs(body.decode()).get("paths", list(files)) if path in files]
            )
        if kind == "preupload":
            return self._modes(files, json.loads(body)["files"])
        if kind == "commit":
            return self._commit(repo_id, repo, revision, body)
        if kind == "commits":
            return _json([_listed(commit) for commit in repo.history(sha)])
        if kind == "tag":
            return _tag(repo, json.loads(body)["tag"], sha)
        siblings = [{"rfilename": name} for name in files]
        facts = {"_id": "1", "sha": sha, "private": repo.private, "gated": False, "tags": [], "siblings": siblings}
        card = files.get("README.md")
        if isinstance(card, bytes) and (header := re.match(rb"---\n(.*?)\n---", card, re.DOTALL)):
            import yaml  # type: ignore[import-untyped]

            facts["cardData"] = yaml.safe_load(header[1])
        return _json({"id": repo_id, "author": repo_id.split("/")[0], "downloads": 0, "likes": 0, **facts})

    def _create(self, asked: dict[str, Any]) -> Answer:
        owner = asked.get("organization") or self.owners[0]
        repo_id = f"{owner}/{asked['name']}"
        if owner not in self.owners:
            return _error(403, "", f"You don't have the rights to create a dataset under the namespace {owner!r}")
        link = {"url": f"{self.url}/datasets/{repo_id}", "name": repo_id, "id": "1"}
        if repo_id in self.repos:
            return 409, json.dumps({"error": "You already created this dataset repo", **link}).encode(), {}
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.create(repo_id, private=private if self.creates_as is None else self.creates_as)
        return _json(link)

    def _branch(self, method: str, repo: Repo, branch: str, asked: dict[str, Any]) -> Answer:
        if method == "DELETE":
            if branch == "main":
                return _error(403, "", "main cannot be deleted")
            return _json({}) if repo.branches.pop(branch, None) else _error(404, "RevisionNotFound")
        if branch in repo.branches:
            return _error(409, "", "Reference already exists")
        start = repo.sha(asked.get("startingPoint") or "main")
        if start is None:
            return _error(404, "RevisionNotFound")
        repo.branches[branch] = start
        return _json({})

    def _modes(self, files: dict[str, bytes | Large], asked: list[dict[str, Any]]) -> Answer:
        def mode(path: str) -> dict[str, Any]:
            there = files.get(path)
            oid = None if there is None else there.sha256 if isinstance(there, Large) else git_oid(there)
            return {"uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": path in self.ignored, "oid": oid}

        return _json({"files": [{"path": one["path"], **mode(one["path"])} for one in asked]})

    def _batch(self, asked: dict[str, Any]) -> Answer:
        def actions(oid: str, size: int) -> dict[str, Any]:
            if oid in self.blobs:
                return {}
            verify = {"href": f"{self.url}/lfs-verify"}
            if self.part_bytes is None or size <= self.part_bytes:
                return {"actions": {"upload": {"href": f"{self.url}/lfs/{oid}?signature=secret"}, "verify": verify}}
            parts = {str(n + 1): f"{self.url}/lfs-part/{oid}/{n + 1}" for n in range(-(-size // self.part_bytes))}
            header = {"chunk_size": str(self.part_bytes), **parts}
            return {"actions": {"upload": {"href": f"{self.url}/lfs-complete/{oid}", "header": header}, "verify": verify}}

        objects = [{"oid": o["oid"], "size": o["size"], **actions(o["oid"], o["size"])} for o in asked["objects"]]
        return (
            200,
            json.dumps({"transfer": "basic", "objects": objects}).encode(),
            {"Content-Type": "application/vnd.git-lfs+json"},
        )

    def _store(self, step: str, rest: str, body: bytes, corrupt: bool) -> Answer:
        if corrupt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if step == "lfs":
            self.blobs[rest] = body
        elif step == "lfs-part":
            oid, number = rest.split("/")
            self._parts.setdefault(oid, {})[int(number)] = body
            return 200, b"{}", {"ETag": f'"{number}"'}
        elif step == "lfs-complete":
            parts = self._parts.pop(rest, {})
            if len(parts) != len(json.loads(body)["parts"]):
                return _error(400, "", "parts are missing")
            self.blobs[rest] = b"".join(parts[number] for number in sorted(parts))
        else:
            asked = json.loads(body)
            if hashlib.sha256(self.blobs.get(asked["oid"], b"")).hexdigest() != asked["oid"]:
                self.blobs.pop(asked["oid"], None)
                return _error(422, "", "the stored bytes are not those of the oid")
        return _json({})

    def _commit(self, repo_id: str, repo: Repo, branch: str, body: bytes) -> Answer:
        if branch not in repo.branches:
            return _error(404, "RevisionNotFound")
        head = repo.branches[branch]
        files = dict(repo.commits[head].files)
        title = message = ""
        for line in filter(None, body.splitlines()):
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title, message = value["summary"], value.get("description", "")
                if value.get("parentCommit") not in (None, head):
                    return _error(412, "", "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.blobs:
                    return _error(400, "", f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = Large(value["oid"], len(self.blobs[value["oid"]]))
            elif key == "deletedFile":
                if value["path"] not in files:
                    return _error(404, "EntryNotFound", "A file with this name doesn't exist")
                del files[value["path"]]
            else:
                return _error(501, "", f"not implemented: {key}")
        sha = self._advance(repo, branch, files, title, message)
        return _json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/datasets/{repo_id}/commit/{sha}", "hookOutput": ""}
        )

    def _tree(self, address: str, files: dict[str, Any], folder: str, query: dict[str, list[str]]) -> Answer:
        inside = {name: content for name, content in files.items() if not folder or name.startswith(f"{folder}/")}
        if folder and not inside:
            return _error(404, "EntryNotFound")
        parents = {"/".join(name.split("/")[:depth]) for name in inside for depth in range(1, name.count("/") + 1)} - {folder}
        entries = [{"type": "directory", "path": parent, "size": 0, "oid": "0" * 40} for parent in sorted(parents)]
        entries += [_entry(name, content) for name, content in inside.items()]
        begin = int(query.get("cursor", ["0"])[0])
        end = begin + self.page_entries
        more = {"Link": f'<{self.url}{address}?recursive=true&cursor={end}>; rel="next"'} if end < len(entries) else {}
        return 200, json.dumps(entries[begin:end]).encode(), more

    def _file(self, what: bytes | Large | None, byte_range: str | None, sha: str) -> Answer:
        if what is None:
            return _error(404, "EntryNotFound")
        content = self.blobs[what.sha256] if isinstance(what, Large) else what
        etag = what.sha256 if isinstance(what, Large) else git_oid(what)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "text/plain"}
        if isinstance(what, Large):
            headers |= {"X-Linked-Size": str(what.size), "X-Linked-Etag": f'"{etag}"'}
        if byte_range is None:
            return 200, content, headers
        first, last = byte_range.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last or len(content)), len(content) - 1)
        return 206, content[start : stop + 1], {**headers, "Content-Range": f"bytes {start}-{stop}/{len(content)}"}


def git_oid(content: bytes) -> str:
    """The id that git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(value: Any) -> Answer:
    return 200, json.dumps(value).encode(), {}


def _error(status: int, code: str, message: str = "refused") -> Answer:
    return status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message}


def _entry(path: str, what: bytes | Large) -> dict[str, Any]:
    if isinstance(what, Large):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{what.sha256}\nsize {what.size}\n".encode()
        lfs = {"oid": what.sha256, "size": what.size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": what.size, "oid": git_oid(pointer), "lfs": lfs}
    return {"type": "file", "path": path, "size": len(what), "oid": git_oid(what)}


def _listed(commit: Commit) -> dict[str, Any]:
    facts = {"id": commit.sha, "title": commit.title, "message": commit.message}
    return {**facts, "date": "2024-01-01T00:00:00.000Z", "authors": [{"user": "me"}]}


def _refs(repo: Repo) -> Answer:
    def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    return _json({"branches": listed("heads", repo.branches), "tags": listed("tags", repo.tags), "converts": []})


def _tag(repo: Repo, tag: str, sha: str) -> Answer:
    if tag in repo.tags:
        return _error(409, "", "Tag reference exists already")
    repo.tags[tag] = sha
    return _json({})


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # One segment per answer: headers and body sent apart meet Nagle's algorithm and cost 40 ms each.
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes | None:
            """What was sent; None where the client died before all of it was there."""
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                wanted = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(wanted)
                return body if len(body) == wanted else None
            body = b""
            while size := int(self.rfile.readline().split(b";")[0] or b"-1", 16):
                body += self.rfile.read(max(0, size))
                if not self.rfile.readline():
                    return None
            self.rfile.readline()
            return body

        def _hang_up(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def _answer(self) -> None:
            body = self._body()
            if body is None:
                self.close_connection = True
                return None
            parsed = urlparse(self.path)
            # Matched before it is unquoted: a branch may have a slash in its name.
            path = parsed.path
            fault = hub.fault_for(f"{self.command} {unquote(path)}") or Fault("", times=0)
            entry = {"method": self.command, "path": unquote(path), "bytes": len(body), "status": None, "at": time.monotonic()}
            hub.log.append(entry)
            time.sleep(hub.wait_s + fault.wait_s)
            if fault.drop == "before":
                return self._hang_up()
            if fault.status is not None:
                status, answer, headers = fault.status, fault.body.encode(), fault.headers
            else:
                status, answer, headers = hub.answer(
                    self.command, path, parse_qs(parsed.query), body, self.headers, corrupt=fault.corrupt
                )
            entry["status"] = status
            if fault.swap:
                answer = re.sub(fault.swap[0].encode(), fault.swap[1].encode(), answer)
            time.sleep(fault.stall_s)
            if fault.drop == "after":
                return self._hang_up()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if fault.drop == "midway":
                self.wfile.write(answer[: len(answer) // 2])
                return self._hang_up()
            if self.command != "HEAD":
                self.wfile.write(answer)
            return None

        def handle(self) -> None:
            # A client that was killed takes its connections with it.
            try:
                super().handle()
            except (ConnectionError, ValueError):
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    return Handler


class HubProcess:
    """A `FakeHub` in a process of its own; told what to do over its standard input."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url: str = self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def _ask(self, what: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert "error" not in answer, answer
        return answer["value"]

    def set(self, **attributes: Any) -> None:
        """Set attributes of the Hub, such as `wait_s` or `tokens`."""
        self._ask("set", attributes=attributes)

    def inject(self, *faults: Fault) -> None:
        """Replace the faults that are to come."""
        self._ask("inject", faults=[asdict(fault) for fault in faults])

    def reset(self) -> None:
        """Begin anew with an empty Hub."""
        self._ask("reset")

    def pending(self) -> int:
        """How many faults have not happened."""
        return int(self._ask("pending"))

    def create(self, repo_id: str, *, private: bool = False) -> None:
        """An empty data set."""
        self._ask("create", repo_id=repo_id, private=private)

    def branch(self, repo_id: str, branch: str) -> None:
        """A branch that begins at main."""
        self._ask("branch", repo_id=repo_id, branch=branch)

    def publish(self, repo_id: str) -> None:
        """Make a data set public."""
        self._ask("publish", repo_id=repo_id)

    def remove(self, repo_id: str) -> None:
        """Delete a data set."""
        self._ask("remove", repo_id=repo_id)

    def put(self, repo_id: str, files: dict[str, str | None], *, branch: str = "main", title: str = "by hand") -> str:
        """Commit as somebody else would; texts by path, None deletes."""
        return str(self._ask("put", repo_id=repo_id, files=files, branch=branch, title=title))

    def state(self) -> dict[str, Any]:
        """What `FakeHub.state` tells."""
        return dict(self._ask("state"))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _obey(hub: FakeHub, order: dict[str, Any]) -> Any:
    what = order.pop("what")
    if what == "set":
        for name, value in order["attributes"].items():
            setattr(hub, name, value)
    elif what == "inject":
        hub.faults = [Fault(**fault) for fault in order["faults"]]
    elif what == "pending":
        return sum(fault.times for fault in hub.faults)
    elif what == "reset":
        hub.reset()
    elif what == "create":
        hub.create(**order)
    elif what == "publish":
        hub.repos[order["repo_id"]].private = False
    elif what == "remove":
        del hub.repos[order["repo_id"]]
    elif what == "branch":
        branches = hub.repos[order["repo_id"]].branches
        branches[order["branch"]] = branches["main"]
    elif what == "put":
        texts = order.pop("files")
        return hub.put(files={path: None if text is None else text.encode() for path, text in texts.items()}, **order)
    elif what == "state":
        return hub.state()
    return None


def main() -> None:
    """Serve until standard input is closed; the first line on standard output is the address."""
    hub = FakeHub()
    print(json.dumps(hub.url), flush=True)
    for line in sys.stdin:
        try:
            answer = {"value": _obey(hub, json.loads(line))}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
