"""The report in headless Chromium: time to write, size, time until it answers, and what scrolling, searching and sorting take.

python benchmarks/report.py RUN [RUN ...] [--repeats 7] [--json]

Exits with 1 where a report is over 10 MB, is not ready within 2 s (median), or asks for anything beyond its own file.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from curate.reports import write_report

MOST_BYTES = 10_000_000
MOST_READY_S = 2.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ACTIONS = {
    "scroll": """() => { const view = document.getElementById('viewport');
        view.scrollTop = Math.random() * view.scrollHeight; }""",
    "search": """() => { document.getElementById('search').value = 'the';
        document.getElementById('filters').dispatchEvent(new Event('change')); }""",
    "sort": "() => document.querySelector('[data-sort=margin]').click()",
    "score": """() => { const select = document.getElementById('score'); if (!select) return;
        select.selectedIndex = (select.selectedIndex + 1) % select.length; select.dispatchEvent(new Event('change')); }""",
}


def visit(browser: Any, path: Path) -> dict[str, float]:
    """Seconds until the page is ready, and the longest of three goes of every action, each until the next frame is drawn."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    found = {"ready_s": page.evaluate("performance.getEntriesByName('ready')[0].startTime") / 1e3}
    for name, action in ACTIONS.items():
        timed = f"""() => new Promise((done) => {{ const begin = performance.now(); ({action})();
            requestAnimationFrame(() => setTimeout(() => done(performance.now() - begin))); }})"""
        found[f"{name}_s"] = max(page.evaluate(timed) for _ in range(3)) / 1e3
    found["heap_mb"] = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
    found["requests"] = len([url for url in requests if url != path.as_uri() and not url.startswith("data:")])
    found["complaints"] = len(complaints)
    page.close()
    return found


def measure(run: Path, repeats: int) -> dict[str, Any]:
    """Medians over fresh pages of one run's report."""
    from playwright.sync_api import sync_playwright

    chromium = next((found for name in NAMES if (found := shutil.which(name))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        begin = time.perf_counter()
        path = write_report(run, Path(folder) / "report.html", surprise=False)
        write_s = time.perf_counter() - begin
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        visits = [visit(browser, path) for _ in range(repeats)]
        browser.close()
        size = path.stat().st_size
    medians = {name: round(statistics.median(one[name] for one in visits), 3) for name in visits[0]}
    return {"run": run.name, "bytes": size, "write_s": round(write_s, 2), **medians}


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = [measure(run, arguments.repeats) for run in arguments.runs]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for one in found:
            print("  ".join(f"{name} {value}" for name, value in one.items()))
    failed = [
        one
        for one in found
        if one["bytes"] >= MOST_BYTES or one["ready_s"] >= MOST_READY_S or one["requests"] or one["complaints"]
    ]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
