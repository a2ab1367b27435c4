"""What the tests of pushing share: publications of a few rows, pushes in processes of their own, and what a Hub shows after."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from conftest import HUB_TOKEN as TOKEN
from fake_hub import HubProcess

from curate import _fs

TESTS = Path(__file__).parents[1]
WORKER = TESTS / "hub" / "hub_push_worker.py"
REPO = "me/curated"
CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  default: true
- config_name: scores
  data_files:
  - split: train
    path: scores/train-*.parquet
---

# {title}
"""
IMPATIENT = {"first_s": 0.05, "longest_s": 0.2, "total_s": 20.0, "tries": 4, "answer_s": 20.0}
"""Waiting times for tests."""


def write_publication(folder: Path, *, title: str = "first", rows: int = 40, parts: int = 1, **facts: Any) -> Path:
    """A publication that keeps every second row, split into `parts` files of rows each."""
    (folder / "data").mkdir(parents=True)
    (folder / "scores").mkdir()
    (folder / "curate").mkdir()
    kept = rows // 2
    for part in range(parts):
        name = f"train-{part:05d}-of-{parts:05d}.parquet"
        here = range(part * kept // parts, (part + 1) * kept // parts)
        prompts = {"prompt": [f"{title}: {row}?" for row in here], "completion": [f"{row}." for row in here]}
        _fs.commit_table(folder / "data" / name, pa.table(prompts))
        scored = range(part * rows // parts, (part + 1) * rows // parts)
        table = {"row": list(scored), "kept": [row % 2 == 0 for row in scored], "length_words": [row / 7 for row in scored]}
        _fs.commit_table(folder / "scores" / name, pa.table(table))
    _fs.commit_table(folder / "curate" / "ledger.parquet", pa.table({"row": list(range(rows))}))
    (folder / "curate" / "recipe.yaml").write_text(f"name: {title}\n")
    _fs.commit_json(folder / "curate" / "lock.json", {"title": title})
    (folder / "README.md").write_text(CARD.format(title=title))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _fs.sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "README.md"
    }
    source = {"kind": "files", "name": "rows.jsonl", "revision": None, "license": None, "is_private": None, "is_gated": None}
    whole = {
        "format": 1,
        "curate": "0",
        "split": "train",
        "rows": rows,
        "kept": kept,
        "recipe": {"name": title},
        "kept_hash": "0",
        "columns": {"length_words": "length.words"},
        "configs": ["default", "scores"],
        "source": source | facts.pop("source", {}),
        "stated": {"license": "mit", "private_source": None},
        "license": "mit",
        **facts,
    }
    _fs.commit_json(folder / "curate" / "publication.json", {**whole, "files": files})
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Sha256 of every file of a publication."""
    return {p.relative_to(folder).as_posix(): _fs.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass
class Push:
    """A push in a process of its own."""

    process: "subprocess.Popen[str]"

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def ready(self) -> None:
        """Wait until everything is imported and the push begins."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", (line, self.process.communicate())

    def outcome(self) -> dict[str, Any]:
        """What it returned or raised, and everything that it wrote."""
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        return {**json.loads(out.splitlines()[-1]), "written": out + err}


class Pusher:
    """A process that pushes one folder after the other, so that each test need not wait for the imports."""

    def __init__(self, hub: HubProcess, home: Path) -> None:
        self.hub, self.home = hub, home
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            env=environment(hub, home),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, folder: Path, **options: Any) -> dict[str, Any]:
        """Push a folder; what came of it, with the lines of progress under `notes`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order(folder, **options)) + "\n")
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).startswith("{"):
            assert line, "the pushing process ended"
        return dict(json.loads(line))

    def begin(self, folder: Path, *, env: Mapping[str, str] | None = None, **options: Any) -> Push:
        """Begin a push in a new process."""
        process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(order(folder, **options))],
            env=environment(self.hub, self.home, **(env or {})),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Push(process)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def order(folder: Path, *, patience: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """What a worker is told."""
    return {"folder": str(folder), "repo": REPO, "patience": {**IMPATIENT, **(patience or {})}, **options}


def environment(hub: HubProcess, home: Path, **more: str) -> dict[str, str]:
    """The environment of a client of the Hub, with a home and cache of its own."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home / "hf"),
        "HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": f"{TESTS / 'hub'}{os.pathsep}{TESTS.parent}",
        **more,
    }


@dataclass(frozen=True)
class Shown:
    """What a repository shows on main."""

    files: dict[str, str]
    titles: list[str]
    sha: str
    branches: list[str]
    tags: dict[str, str]
    private: bool
    log: list[dict[str, Any]]

    def requests(self, route: str) -> list[dict[str, Any]]:
        """Requests whose path holds the route."""
        return [entry for entry in self.log if route in entry["path"]]


def shown(hub: HubProcess, repo: str = REPO) -> Shown | None:
    """The state of the repository; None when there is none. The Hub's own .gitattributes is left out."""
    state = hub.state()
    found = state["repos"].get(repo)
    if found is None:
        return None
    files = {path: digest for path, digest in found["heads"]["main"].items() if path != ".gitattributes"}
    titles = [commit["title"] for commit in found["history"]["main"]]
    return Shown(
        files, titles, found["branches"]["main"], sorted(found["branches"]), found["tags"], found["private"], state["log"]
    )


def must_show(hub: HubProcess, repo: str = REPO) -> Shown:
    """The state of a repository that is there."""
    found = shown(hub, repo)
    assert found is not None
    return found


def require_old_or_new(hub: HubProcess, old: Path | None, new: Path) -> Shown | None:
    """What the repository shows: one of both, whole."""
    found = shown(hub)
    states = [hashes(new), {} if old is None else hashes(old)]
    assert found is None or found.files in states
    return found


def require_one_new_commit(hub: HubProcess, new: Path, *, commits: int) -> Shown:
    """The new publication, on top of that many commits."""
    found = must_show(hub)
    assert found.files == hashes(new)
    assert len(found.titles) == commits + 1
    return found


def begun(push: Pusher, folder: Path, **options: Any) -> Push:
    """A push that has begun."""
    started = push.begin(folder, **options)
    started.ready()
    return started


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def kill_and_run_again(hub: HubProcess, push: Pusher, old: Path | None, new: Path, after_s: float, **options: Any) -> None:
    """Kill a push some time after it began, look, run it again, look."""
    before = 0 if old is None else len(must_show(hub).titles)
    running = begun(push, new, **options)
    time.sleep(after_s)
    running.kill()
    found = require_old_or_new(hub, old, new)
    had_landed = found is not None and found.files == hashes(new)
    done = push(new, **options)
    # A request of the dead process may still be under way, and land between the look and the second run.
    assert "error" not in done, done
    assert not (had_landed and done["is_new"])
    assert require_one_new_commit(hub, new, commits=before or 1).branches == ["main"]


def kill_at_random(hub: HubProcess, push: Pusher, publications: Iterable[Path], *, seed: int, **options: Any) -> None:
    """Kill pushes of one publication after the other, at moments drawn over the course of an undisturbed one.

    The first publication only tells how long a push takes; the second is pushed into nothing.
    """
    draw = random.Random(seed)
    hub.set(wait_s=0.03)
    first, *others = publications
    timing = begun(push, first, **options)
    start = time.monotonic()
    assert timing.outcome()["is_new"]
    took_s = time.monotonic() - start
    hub.remove(REPO)
    old = None
    for new in others:
        kill_and_run_again(hub, push, old, new, draw.uniform(0, took_s), **options)
        old = new
