"""The scoring benchmark's figures as Markdown."""

from collections.abc import Iterator
from typing import Any


def table(found: dict[str, Any]) -> Iterator[str]:
    """Where the figures come from, then a table per shape."""
    here = found["machine"]
    place = f"{here['processors']} processors ({here['processor']}; {', '.join(here['flags'])}), {here['memory_gb']:.0f} GB"
    yield f"    {found['command']}"
    yield ""
    yield f"Commit {found['commit']}; {place}{', ' + here['gpu'] if 'gpu' in here else ''}; {here['threads']} threads"
    versions: dict[str, str] = {}
    for shape in found["shapes"].values():
        versions |= shape["versions"]
    yield f"{', '.join(f'{name} {version}' for name, version in versions.items())}. Medians of {found['rounds']} rounds."
    if not found["harness"]:
        yield "lm-evaluation-harness is left out: no --lm-eval-python was given."
    for name, shape in found["shapes"].items():
        yield ""
        yield from _shape(name, shape)


def _shape(name: str, shape: dict[str, Any]) -> Iterator[str]:
    real, long = shape["rows"]["real"], shape["rows"]["long"]
    sizes = shape["shape"]
    yield f"### {name}: hidden {sizes['hidden']}, {sizes['layers']} layers, vocabulary {sizes['vocabulary']:,}"
    yield ""
    yield (
        f"{real['rows']} responses of {real['mean_response_tokens']:.0f} tokens to {real['prompts']} prompts of "
        f"{real['prompt_tokens'] / real['prompts']:.0f}; long prompts: {long['rows']} of {long['mean_response_tokens']:.0f} to "
        f"{long['prompts']} of {long['prompt_tokens'] / long['prompts']:.0f}. Weights {shape['weights_mb']:,.0f} MB."
    )
    yield from _limit(shape)
    yield ""
    yield (
        "| way | response tokens/s (lowest to highest) | peak above weights, MB | share of the limit "
        "| nats per token from float64, worst row | total from curate's | quiet |"
    )
    yield "|---|---|---|---|---|---|---|"
    for way, row in shape["ways"].items():
        yield _row(way, row)
    yield ""
    yield "| speed of | over | median of rounds | lowest to highest |"
    yield "|---|---|---|---|"
    for one in shape["ratios"]:
        yield f"| {one['of']} | {one['over']} | {one['median']:.2f} | {one['low']:.2f} to {one['high']:.2f} |"


def _limit(shape: dict[str, Any]) -> Iterator[str]:
    """What bounds the speed, and why bfloat16 is or is not there."""
    if shape["gemm"] is None:
        yield f"Limit: {shape['limit_tokens_per_second']['bfloat16']:,.0f} tokens/s at 790 TFLOP/s."
        return
    rates, limits = shape["gemm"]["gflops"], shape["limit_tokens_per_second"]
    yield (
        f"Matrix products alone, GFLOP/s: float32 {rates['float32']:,.0f}, float32 with the GEMM switch {rates['switch']:,.0f} "
        f"(relative error {shape['gemm']['switch_error']:.0e}), bfloat16 {rates['bfloat16']:,.0f}: at most "
        f"{limits['float32']:,.0f} tokens/s in float32, {limits['bfloat16']:,.0f} in bfloat16; what rows begin with alike "
        "read once, attention not counted."
    )
    if not shape["gemm"]["quiet"]:
        yield "The machine was not quiet for these: the limit is too low."
    if not any("bfloat16" in way for way in shape["ways"]):
        yield "bfloat16 is left out: its products are slower than float32's on this machine."
    harness = [way for way in shape["ways"] if way.startswith("lm-evaluation-harness")]
    if harness and not any(way.endswith("GEMM switch set") for way in harness):
        yield "The GEMM switch is left out: it is slower than what torch chooses here, or not exact."


def _row(way: str, row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"| {way} | failed: {row['failure']} | | | | | |"
    name = f"{way} (batch {row['batch']} is its best)" if row["tried_batches"] else way
    cells = [
        f"{row['tokens_per_second']:,.0f} ({min(row['speeds']):,.0f} to {max(row['speeds']):,.0f})",
        f"{row['peak_mb']:,.0f}",
        f"{row['share_of_limit']:.0%}" if "share_of_limit" in row else "",
        f"{row['largest_difference']:.0e}" if "largest_difference" in row else "",
        f"{row['total_differs']:.0e}" if "total_differs" in row else "",
        "yes" if row["quiet"] else f"not quiet, others took {row['others']:.0%}",
    ]
    return f"| {name} | {' | '.join(cells)} |"
