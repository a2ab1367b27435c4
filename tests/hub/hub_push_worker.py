"""Pushes in a process of its own. Orders are JSON: the first argument, or the lines of standard input."""

import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Push, and say what came of it."""
    from curate import progress
    from curate.errors import CurateError
    from curate.hub import Limits, Patience, push

    folder = Path(order.pop("folder"))
    facts = json.loads((folder / "curate" / "publication.json").read_bytes())
    # What `load_bundle` gives, without importing all that builds one.
    bundle: Any = SimpleNamespace(folder=folder, facts=facts, files=[*facts["files"], "README.md", "curate/publication.json"])
    limits = Limits(order.pop("files_per_commit", 250), Patience(**order.pop("patience")))
    notes = io.StringIO()
    print("ready", flush=True)
    try:
        with progress.shown(notes):
            outcome = asdict(push(bundle, order.pop("repo"), limits=limits, **order))
    except CurateError as error:
        outcome = {"error": type(error).__name__, "message": str(error), "code": error.exit_code}
    return outcome | {"notes": notes.getvalue()}


def main() -> None:
    """Import what a push needs, then obey."""
    import huggingface_hub.hf_api  # noqa: F401

    for order in sys.argv[1:] or sys.stdin:
        print(json.dumps(obey(json.loads(order))), flush=True)


if __name__ == "__main__":
    main()
