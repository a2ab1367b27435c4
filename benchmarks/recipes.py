"""Every shipped recipe on GSM8K's 17 sources, or the refusal that it ends with.

    python benchmarks/recipes.py --data ../shared/data/familiarity [--model M] [--limit 3400] [--own SOURCE] [--json]

Recipes that ask the model see the first `--limit` rows, the others all 17,000. `--own` names the target's own answers for
self-aligned perplexity; without it `self-aligned-top50` refuses, as it does for everybody.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from curate import load_recipe, run, shipped_recipes
from curate.errors import CurateError
from curate.recipes import Recipe
from curate.reference import model_path


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/familiarity"))
    parser.add_argument("--model", default=str(model_path()))
    parser.add_argument("--limit", type=int, default=3400)
    parser.add_argument("--own")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    path = given.data / "gsm8k" / "train.jsonl.gz"
    if not path.is_file():
        sys.exit(f"{path}: not here; this benchmark needs the GSM8K rows of the shared data")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in shipped_recipes():
            found[name] = _outcome(with_own(load_recipe(name), given.own), path, given, Path(folder))
            if not given.json:
                print(_line(name, found[name]), flush=True)
    if given.json:
        print(json.dumps(found, indent=1))


def with_own(recipe: Recipe, own: str | None) -> Recipe:
    """The recipe, told which source holds the target's own answers."""
    if own is None or "self_aligned" not in recipe.filters:
        return recipe
    filters = {**recipe.filters, "self_aligned": {**recipe.filters["self_aligned"], "own": own}}
    return recipe.model_copy(update={"filters": filters})


def _outcome(recipe: Recipe, path: Path, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    out = folder / ("model" if recipe.needs_model else "text")  # recipes of one kind share rows and scores
    limit = {"limit": given.limit} if recipe.needs_model else {}
    started = time.perf_counter()
    try:
        report = run(recipe, path, model=given.model if recipe.needs_model else None, out=out, **limit).report
    except CurateError as error:
        return {"refused": str(error)}
    return {
        "rows": report.rows,
        "kept": report.kept,
        "seconds": time.perf_counter() - started,
        "human_kept": sum(source.kept for source in report.sources if source.source == "human"),
        "steps": [[step.step, step.rejected] for step in report.steps],
        "explained_by_both": report.explained_by_both,
    }


def _line(name: str, found: dict[str, Any]) -> str:
    if "refused" in found:
        return f"{name:<22} refuses: {found['refused']}"
    explained = found["explained_by_both"]
    return (
        f"{name:<22} {found['rows']:>6,} rows, {found['kept']:>6,} kept ({found['kept'] / found['rows']:.0%}), "
        f"{found['human_kept']:>4,} of human; length and source explain {'-' if explained is None else f'{explained:.0%}'}; "
        f"{found['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
