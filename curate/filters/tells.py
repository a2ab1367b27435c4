"""The `tells` filter: traces of how a completion was made, which say nothing about whether it is right."""

import math
import re
from typing import ClassVar

from pydantic import Field

from curate.examples import Example
from curate.filters.base import Filter, Scores, register
from curate.filters.copying import shares_run
from curate.filters.language import is_other_language
from curate.filters.limits import head

# Every repetition is bounded, so that each pattern is linear in the text.
_MARKUP = re.compile(
    r"<<[-0-9(.$][^<>\n]{0,120}=[^<>\n]{0,60}>>"  # calculator marks: <<48/2=24>>
    r"|<[|｜][A-Za-z_▁0-9]{2,40}[|｜]>"  # <|im_end|>, <|eot_id|>
    r"|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    r"|\A\s{0,4}<s>|</s>\s{0,4}\Z"  # elsewhere HTML's strike-through
    r"|^#{2,4} ?(?:Response|Instruction|Input|Assistant|Human|User)\b ?:?\s*$"
    r"|^#{2,4} ?(?:Response|Instruction|Assistant|Human|User) ?:",
    re.MULTILINE,
)
_CANNOT = r"(?:cannot|can['’]t|can not|won['’]t|will not|(?:am|['’]m) (?:unable|not able) to|must (?:respectfully )?decline to)"
_REFUSAL = re.compile(
    rf"\bI(?: am|['’]m)?,? (?:really )?sorry,? (?:but )?I(?: {_CANNOT}|['’]m (?:unable|not able))"
    rf"|\bI ?{_CANNOT} (?:provide|assist|help(?! but)|answer|fulfill|fulfil|comply|create|generate|engage"
    r"|recommend|support|condone|discuss)"
    r"|\bI apologi[sz]e,? but I\b|\bI must (?:respectfully )?decline\b|\bI have to (?:respectfully )?decline\b"
    r"|\b(?:against|violates?) my (?:programming|guidelines|content polic)"
    r"|\bnot (?:appropriate|ethical) (?:for me )?to (?:provide|answer|discuss)",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"\A\W{0,6}(?:"
    r"(?:sure(?: thing)?|certainly|of course|absolutely|definitely|no problem|great question|good question)"
    r"(?:!|[,.:] (?=I|here|let|the answer))"
    r"|(?:hi|hello|hey)(?: there)?!|(?:I['’]d|I would|I['’]ll) be (?:more than )?(?:happy|glad|delighted) to"
    r"|I['’]m (?:happy|glad) to help"
    r"|(?:happy|glad) to help|(?:here['’]s|here is|below is) (?:the|a|an|my|your) [^\n]{0,60}:\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_CLOSING = re.compile(
    r"\b(?:hope (?:this|that|it) (?:helps|clarifies|makes sense)|let me know if (?:you|there|I)|feel free to (?:ask|reach)"
    r"|is there anything else (?:I|you)|would you like me to|did I get (?:it|that) right|happy to help)\b",
    re.IGNORECASE,
)
_META = re.compile(
    r"\b(?:the|this|that) (?:given |provided |original |above |model['’]?s? )?prediction (?:[a-z]{1,12}ly )?"
    r"(?:explain|outline|suggest|calculate|analy[sz]e|state|describe|indicate|conclude|provide|show|detail|present|break|determine|identif"
    r"|emphasi|highlight|argue|discuss|evaluate|examine|explore"
    r"|consider|reason|note|demonstrate|illustrate|point|propose|assert|is that|that|of)"
    r"|\b(?:the|that) ground[ -]?truth\b|\bgroundtruth\b"
    r"|\bas an? (?:AI|artificial intelligence|large language model|language model)\b"
    r"|\bI(?: am|['’]m) (?:just |only )?an? (?:AI|language model)\b"
    r"|\b(?:the|your) (?:given|provided|gold|reference|predicted|original) (?:answer|solution|response|label|inference"
    r"|explanation|rationale)s?\b"
    r"|\b(?:rewritten|paraphrased|rephrased|reworded|restated) (?:solution|answer|response|version|explanation|inference|text)\b"
    r"|\bin my own words\b|\bmy (?:knowledge cut-?off|training data)\b",
    re.IGNORECASE,
)
_CLOSING_CHARACTERS = 300


@register("tells")
class Tells(Filter):
    """Traces of how a completion was made: leaked markup, refusals, chat phrases, talk about the task instead of the question.

    Outputs (true is a tell; none is a mistake by itself):
        markup: calculator marks (`<<48/2=24>>`) or tokens of a template (`<|im_end|>`, `[INST]`, `</s>` at the end, `###
            Response:`).
        refusal: the writer declines (`I cannot provide ...`, `I'm sorry, but I can't ...`).
        preamble: a chat phrase before or after the answer (`Sure, I'd be happy to help!`, `Certainly!`, `I hope this helps`).
        meta_talk: talk about the writer or the task's material (`the prediction explains`, `as an AI language model`, `the given
            answer`, `the ground truth`, `rewritten solution`).
        any: at least one of the four above, which are traces whatever the task is.
        language: prompt and completion are each in one language with `confidence`, and not in the same. Null where one of them
            is short (under 60 letters; fewer for scripts without spaces), code, or of no sure language. On data that asks for
            another language (translation, language lessons) it is true of the right rows: do not use it there.
        copied_prompt: one run of words, at least `fewest_words` long and at least `copied_share` of the prompt or of the
            completion, stands in both. On data whose task is to copy (extraction, editing) it is true of right rows.

    Null only where said: an empty completion has no tell. English phrases only. The first 100,000 characters are looked at;
    greetings count at the start, closing phrases among the last 300 characters, languages in the last 1,000.
    Cost: linear in length, about 0.5 ms per row of 560 characters, most of it for the language, no model.
    Source: phrases found in the generated responses of Ren et al. 2024 (arXiv:2402.11192); languages by py3langid; measured in
    docs/filters.md.
    """

    version: ClassVar[int] = 2
    reads: ClassVar = ("messages",)
    outputs: ClassVar = {
        "markup": "bool",
        "refusal": "bool",
        "preamble": "bool",
        "meta_talk": "bool",
        "any": "bool",
        "language": "bool",
        "copied_prompt": "bool",
    }

    confidence: float = Field(default=0.8, gt=0, lt=1, description="Confidence in both languages, as py3langid states it.")
    copied_share: float = Field(default=0.5, gt=0, le=1, description="Share of prompt or completion that the shared run covers.")
    fewest_words: int = Field(default=12, ge=1, description="Words that the shared run must have.")

    def score(self, example: Example) -> Scores:
        """All tells of one row."""
        text = head(example.completion)
        found = {
            "markup": bool(_MARKUP.search(text)),
            "refusal": bool(_REFUSAL.search(text)),
            "preamble": bool(_GREETING.search(text[:200]) or _CLOSING.search(text.rstrip()[-_CLOSING_CHARACTERS:])),
            "meta_talk": bool(_META.search(text)),
        }
        language = is_other_language(head(example.prompt_text), text, confidence=self.confidence)
        return {**found, "any": any(found.values()), "language": language, "copied_prompt": self._copies(example, text)}

    def _copies(self, example: Example, text: str) -> bool:
        prompt, words = head(example.prompt_text).split(), text.split()
        length = max(self.fewest_words, math.ceil(self.copied_share * min(len(prompt), len(words))))
        return shares_run(prompt, words, length)
