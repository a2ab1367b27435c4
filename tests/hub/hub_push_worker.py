"""A push in a process of its own: its order is the first argument, as JSON; its outcome is the last line on stdout."""

import json
import sys
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    """Import what a push needs, say so, push, and say what came of it."""
    order = json.loads(sys.argv[1])
    import huggingface_hub.hf_api  # noqa: F401

    from curate import progress
    from curate.errors import CurateError
    from curate.hub import Limits, Patience, push
    from curate.publication import load_bundle

    bundle = load_bundle(Path(order.pop("folder")))
    limits = Limits(order.pop("files_per_commit", 250), Patience(**order.pop("patience")))
    print("ready", flush=True)
    try:
        with progress.shown():
            outcome = asdict(push(bundle, order.pop("repo"), limits=limits, **order))
    except CurateError as error:
        outcome = {"error": type(error).__name__, "message": str(error), "code": error.exit_code}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
