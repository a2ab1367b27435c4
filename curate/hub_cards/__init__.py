"""The data set card of a run: what was kept and why, for people who have never heard of `curate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.hub_cards.inert import Inert

__all__ = ["render_card"]

TEMPLATE = "card.md.jinja"


def render_card(
    out: Path,
    facts: Mapping[str, Any],
    *,
    repo: str | None = None,
    license: str | None = None,
    with_examples: bool = False,
) -> str:
    """README.md of a publication: YAML header and Markdown, ending in a newline. The same run gives the same text.

    `facts` is what `curate/publication.json` holds; everything else is read from the run's folder. `repo` is where it will be
    published, `license` what the publisher says of it. `with_examples` shows three kept rows, cut short: strangers' text.

    Raises:
        UsageError: a folder without a selection, or a name that the Hub would not take.
    """
    from curate.hub_cards.context import card_context

    return render(card_context(out, facts, repo=repo, license=license, with_examples=with_examples))


def render(context: Mapping[str, Any]) -> str:
    """The packaged template filled in. Data is only ever a variable, and every variable has been made inert."""
    import re

    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from curate.hub_cards import inert

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=_only_inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it makes text harmless in HTML; this is Markdown, and `finalize` lets nothing else pass
    )
    environment.filters = {name: getattr(inert, name) for name in ("code", "prose", "number")}
    template = environment.from_string((Path(__file__).parent / TEMPLATE).read_text(encoding="utf-8"))
    return re.sub(r"\n{3,}", "\n\n", template.render(context)).rstrip("\n") + "\n"


def _only_inert(value: object) -> Inert:
    """What the template puts out. Raises TypeError for text that has not been through `inert`: that is our mistake."""
    if not isinstance(value, Inert):
        raise TypeError(f"the card's template puts out {type(value).__name__}, which nobody has made inert")
    return value
