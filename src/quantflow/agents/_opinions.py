"""What each agent is told and in which form it must answer.

The examples are part of the prompt because a small language model copies their form; their
companies and figures are invented. Facts are written in one way everywhere, so that the
examples read like the question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from quantflow.agents._state import Opinion

__all__ = [
    "CONFIDENCE",
    "MANAGER_BRIEF",
    "RISK_BRIEF",
    "SHARE",
    "TECHNICAL_BRIEF",
    "Brief",
    "ManagerAnswer",
    "RiskAnswer",
    "TechnicalAnswer",
    "facts_for_manager",
    "facts_for_risk",
    "facts_for_technical",
    "printable",
]

_LONGEST_WORDS = 240
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text that every store of a run takes: PostgreSQL's JSON refuses NUL, for one."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class _AgentAnswer(BaseModel):
    """Words first: what a language model has written steers what it then chooses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: Annotated[str, AfterValidator(printable)] = Field(min_length=10, max_length=_LONGEST_WORDS)


Confidence = Literal["unsure", "fairly sure", "sure"]
Share = Literal["all", "most", "half", "little", "none"]

#: Words instead of numbers in what a language model answers: a small one copies whatever figure
#: stands in the facts, and of a large one nothing finer than this is reproducible.
CONFIDENCE: Mapping[Confidence, float] = {"unsure": 0.3, "fairly sure": 0.6, "sure": 0.9}
SHARE: Mapping[Share, float] = {"all": 1.0, "most": 0.75, "half": 0.5, "little": 0.25, "none": 0.0}


class TechnicalAnswer(_AgentAnswer):
    """Whether the trend supports the proposed exposure."""

    trend: Literal["supports", "mixed", "contradicts"]
    confidence: Confidence


class RiskAnswer(_AgentAnswer):
    """How worrying the risk of the proposed exposure is."""

    concern: Literal["low", "medium", "high"]
    confidence: Confidence


class ManagerAnswer(_AgentAnswer):
    """How much of the proposed exposure to take."""

    keep: Share
    confidence: Confidence


@dataclass(frozen=True)
class Brief:
    """An agent's instructions and worked examples: pairs of facts and the answer to them.

    A pipeline's module may bring its own; they are stored with its version.
    """

    instructions: str
    examples: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def messages(self, facts: str) -> list[dict[str, str]]:
        """Return the conversation that ends with the question about these facts."""
        messages = [{"role": "system", "content": self.instructions}]
        for question, answer in self.examples:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": json.dumps(dict(answer))})
        return [*messages, {"role": "user", "content": facts}]


def facts_for_technical(exposure: Mapping[str, Any], technical: Mapping[str, Any]) -> str:
    """Return the technical analyst's question."""
    return (
        f"{_exposure(exposure)}\n"
        f"The trend {technical['agreement']}: {technical['with_trend']} of {technical['positions']} positions go "
        f"with it. They earned {_percent(technical['trend_return'])} in 3 months and "
        f"{_percent(technical['momentum_return'])} in 1 month. "
        f"Volatility {_percent(technical['volatility'], sign=False)} a year."
    )


def facts_for_risk(exposure: Mapping[str, Any], risk: Mapping[str, Any]) -> str:
    """Return the risk analyst's question."""
    used = max(risk["limits_used"].values(), default=0.0)
    return (
        f"{_exposure(exposure)}\n"
        f"The limits are {risk['tightness']}: {_percent(used, sign=False, digits=0)} of the most used one is taken. "
        f"One-day value at risk {_percent(risk['value_at_risk'], sign=False)}, "
        f"CVaR {_percent(risk['cvar'], sign=False)}, drawdown {_percent(risk['drawdown'], sign=False)}."
    )


def facts_for_manager(exposure: Mapping[str, Any], opinions: Mapping[str, Opinion]) -> str:
    """Return the portfolio manager's question: what was proposed and what the analysts judged."""
    lines = [_exposure(exposure)]
    for agent, opinion in opinions.items():
        name = agent.replace("_", " ").capitalize()
        lines.append(f"{name}: {opinion['judgement']}.")
    return "\n".join(lines)


def _exposure(exposure: Mapping[str, Any]) -> str:
    return f"Proposed: net {_percent(exposure['net'])}, {exposure['longs']} long, {exposure['shorts']} short."


def _percent(fraction: float, *, sign: bool = True, digits: int = 1) -> str:
    return f"{100 * fraction:{'+' if sign else ''}.{digits}f} %"


TECHNICAL_BRIEF = Brief(
    "You are the technical analyst of a trading desk. Say in one sentence what the facts mean for the proposed "
    "exposure, whether the trend supports it, and how sure you are of it. Use only the numbers given. "
    "Answer in JSON.",
    (
        (
            "Proposed: net +20.0 %, 4 long, 0 short.\nThe trend is mixed: 2 of 4 positions go with it. They earned "
            "+0.8 % in 3 months and +0.2 % in 1 month. Volatility 22.0 % a year.",
            {
                "words": "The trend is mixed: 2 of 4 positions go with it and they earned +0.8 %, so it says little.",
                "trend": "mixed",
                "confidence": "fairly sure",
            },
        ),
        (
            "Proposed: net +25.0 %, 5 long, 0 short.\nThe trend disagrees: 1 of 5 positions go with it. They earned "
            "-5.5 % in 3 months and -3.1 % in 1 month. Volatility 38.0 % a year.",
            {
                "words": "The trend disagrees: only 1 of 5 positions goes with it and they lost -5.5 %, so it "
                "contradicts the exposure.",
                "trend": "contradicts",
                "confidence": "sure",
            },
        ),
        (
            "Proposed: net +40.0 %, 8 long, 0 short.\nThe trend agrees: 7 of 8 positions go with it. They earned "
            "+6.1 % in 3 months and +2.0 % in 1 month. Volatility 15.0 % a year.",
            {
                "words": "The trend agrees: 7 of 8 positions go with it and earned +6.1 %, so it supports the "
                "exposure.",
                "trend": "supports",
                "confidence": "sure",
            },
        ),
    ),
)

RISK_BRIEF = Brief(
    "You are the risk analyst of a trading desk. Say in one sentence what the facts mean for the proposed exposure, "
    "how high your concern is, and how sure you are of it. Use only the numbers given. Answer in JSON.",
    (
        (
            "Proposed: net +60.0 %, 9 long, 0 short.\nThe limits are nearly used up: 92 % of the most used one is "
            "taken. One-day value at risk 1.4 %, CVaR 2.0 %, drawdown 17.0 %.",
            {
                "words": "The limits are nearly used up: 92 % of the most used one is taken, so concern is medium.",
                "concern": "medium",
                "confidence": "fairly sure",
            },
        ),
        (
            "Proposed: net +90.0 %, 9 long, 0 short.\nThe limits are exceeded: 150 % of the most used one is taken. "
            "One-day value at risk 3.8 %, CVaR 5.9 %, drawdown 38.0 %.",
            {
                "words": "The limits are exceeded: 150 % of the most used one is taken, so concern is high.",
                "concern": "high",
                "confidence": "sure",
            },
        ),
        (
            "Proposed: net +40.0 %, 8 long, 0 short.\nThe limits are comfortable: 45 % of the most used one is taken. "
            "One-day value at risk 0.6 %, CVaR 0.9 %, drawdown 6.0 %.",
            {
                "words": "The limits are comfortable: 45 % of the most used one is taken, so concern is low.",
                "concern": "low",
                "confidence": "sure",
            },
        ),
    ),
)

MANAGER_BRIEF = Brief(
    "You are the portfolio manager of a trading desk. You may keep the proposed exposure or reduce it, never "
    "increase it. Say in one sentence why, how much of it to keep, and how sure you are of it. Answer in JSON.",
    (
        (
            "Proposed: net +20.0 %, 4 long, 0 short.\nTechnical analyst: trend mixed.\nRisk analyst: concern medium.",
            {
                "words": "The trend is mixed and concern is medium, so half of the exposure is kept.",
                "keep": "half",
                "confidence": "fairly sure",
            },
        ),
        (
            "Proposed: net +25.0 %, 5 long, 0 short.\nTechnical analyst: trend contradicts.\n"
            "Risk analyst: concern high.",
            {
                "words": "The trend contradicts the exposure and concern is high, so none of it is kept.",
                "keep": "none",
                "confidence": "sure",
            },
        ),
        (
            "Proposed: net +40.0 %, 8 long, 0 short.\nTechnical analyst: trend supports.\nRisk analyst: concern low.",
            {
                "words": "The trend supports the exposure and concern is low, so all of it is kept.",
                "keep": "all",
                "confidence": "sure",
            },
        ),
    ),
)
