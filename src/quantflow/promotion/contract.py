"""The contract of a pipeline: what is promoted, with which parameters, inputs and limits.

A contract is one TOML file in ``pipelines/``; paths in it are relative to it. Every problem
of a contract is reported at once, with its key, what was received and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from quantflow.errors import ContractError, ParameterError
from quantflow.events.types import EVENT_TYPES
from quantflow.notebooks.code import REFERENCE_PATTERN, module_of
from quantflow.notebooks.document import closest, typed_value
from quantflow.promotion.cron import check_cron
from quantflow.risk import RiskLimits

__all__ = ["Contract", "InputSpec", "ParameterSpec", "Value", "load_contract", "parse_contract"]

Value = bool | int | float | str

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ParameterSpec(_Part):
    """One typed parameter: its default, and which other values a run may give."""

    type: Literal["bool", "int", "float", "str"]
    default: StrictBool | StrictInt | StrictFloat | StrictStr
    low: float | None = None
    high: float | None = None
    choices: tuple[StrictBool | StrictInt | StrictFloat | StrictStr, ...] | None = None
    doc: str = ""

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers_are_floats(cls, values: Any) -> Any:
        # In TOML, 1 is an integer; for a float parameter it means 1.0.
        if isinstance(values, dict) and values.get("type") == "float" and type(values.get("default")) is int:
            return values | {"default": float(values["default"])}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.type in ("bool", "str") and (self.low is not None or self.high is not None):
            raise ValueError(f"low and high are for numbers; type is {self.type!r}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        for choice in self.choices or ():
            typed_value(choice, self.type)
        self.check(self.default)
        return self

    @property
    def allowed(self) -> str:
        """What a run may give, for a person."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        bounds = [f"at least {self.low:g}"] if self.low is not None else []
        bounds += [f"at most {self.high:g}"] if self.high is not None else []
        return " ".join([self.type, " and ".join(bounds)]).strip()

    def check(self, value: Any) -> Value:
        """Return the value as this parameter's type, or raise ``ValueError``."""
        typed = typed_value(value, self.type)
        too_low = self.low is not None and isinstance(typed, int | float) and typed < self.low
        too_high = self.high is not None and isinstance(typed, int | float) and typed > self.high
        if too_low or too_high or (self.choices is not None and typed not in self.choices):
            raise ValueError(f"received {value!r}; allowed: {self.allowed}")
        return typed


class InputSpec(_Part):
    """A topic that a run reads its slice of, and the type of event on it."""

    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
    event: str = Field(alias="schema")

    @field_validator("event")
    @classmethod
    def _known_event(cls, value: str) -> str:
        if value not in EVENT_TYPES:
            raise ValueError(f"received {value!r}; allowed: an event type{closest(value, list(EVENT_TYPES))}")
        return value


class Contract(_Part):
    """What one pipeline is. Paths are relative to the contract's own directory.

    Attributes
    ----------
    notebook
        The notebook that every run executes.
    signal, graph
        ``module:name`` of a module beside the contract, or ``cell:TAG:name`` of a tagged cell
        of the notebook.
    modules
        Further modules beside the contract that those import, by name without ``.py``.
    schedule
        Cron expression in UTC; absent: only on request.
    limits
        The deterministic risk officer's limits, as fractions of equity.
    confidence_level
        Of value at risk and CVaR, in (0.5, 1).
    approval
        Whether a person of ``approver_role`` must agree to each proposal.
    min_confidence
        An agent's confidence below this makes the proposal HOLD.
    """

    pipeline: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=100)]
    description: Annotated[str, Field(min_length=1, max_length=500)]
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    notebook: Annotated[str, Field(pattern=r"^[^\\]+\.ipynb$")]
    signal: str
    graph: str
    modules: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    schedule: str | None = None
    parameters: dict[str, ParameterSpec] = Field(default_factory=dict)
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    limits: RiskLimits
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    approval: Literal["auto", "human"]
    approver_role: Annotated[str, Field(min_length=1, max_length=100)]
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.5

    @field_validator("signal", "graph")
    @classmethod
    def _reference(cls, value: str) -> str:
        if REFERENCE_PATTERN.fullmatch(value) is None:
            raise ValueError(f"received {value!r}; allowed: module:name, or cell:TAG:name of a tagged notebook cell")
        return value

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        return None if value is None else check_cron(value)

    @field_validator("parameters")
    @classmethod
    def _identifiers(cls, value: dict[str, ParameterSpec]) -> dict[str, ParameterSpec]:
        for name in value:
            if not _IDENTIFIER.fullmatch(name):
                raise ValueError(f"received name {name!r}; allowed: lower case letters, digits and underscores")
        return value

    @property
    def module_names(self) -> tuple[str, ...]:
        """Every module that a version stores, once each."""
        named = [module_of(self.signal), module_of(self.graph), *self.modules]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def resolve_parameters(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Return the value of every parameter of a run: those given, checked, and the defaults.

        Raises
        ------
        ParameterError
            Names every parameter that is unknown, mistyped or out of range.
        """
        known = list(self.parameters)
        problems = [
            f"{str(name)[:80]!r} is not a parameter{closest(str(name), known)} Declared: {', '.join(known) or 'none'}"
            for name in given
            if name not in self.parameters
        ]
        values: dict[str, Value] = {}
        for name, spec in self.parameters.items():
            try:
                values[name] = spec.check(given[name]) if name in given else spec.check(spec.default)
            except ValueError as exc:
                problems.append(f"{name}: {exc}")
        if problems:
            raise ParameterError(f"pipeline {self.pipeline!r} cannot be run so:\n  - " + "\n  - ".join(problems))
        return values


def load_contract(path: Path) -> Contract:
    """Return a contract whose files all exist and agree with it.

    Raises
    ------
    ContractError
        Names file and key of every problem, what was received and what is allowed.
    """
    from quantflow.promotion.bundle import read_bundle

    return read_bundle(path).contract


def parse_contract(content: bytes, *, path: str) -> Contract:
    """Return the contract in these bytes, checked by itself: no other file is looked at.

    Raises
    ------
    ContractError
        Names every key that is wrong.
    """
    import tomllib

    try:
        document = tomllib.loads(content.decode())
    except UnicodeDecodeError as exc:
        raise ContractError(path, [f"is not UTF-8: {exc.reason} at byte {exc.start}"]) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ContractError(path, [f"is not TOML: {exc}"]) from exc
    try:
        return Contract.model_validate(document)
    except ValidationError as exc:
        raise ContractError(path, [_explain(problem) for problem in exc.errors(include_url=False)]) from None


def _explain(problem: Any) -> str:
    location = [part for part in problem["loc"] if part not in ("bool", "int", "float", "str")]
    key = ".".join(str(part) for part in location)
    kind, received, context = problem["type"], problem["input"], problem.get("ctx") or {}
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        return f"{key}: unknown key{closest(str(location[-1]), known)}; allowed: {', '.join(known)}"
    if kind == "missing":
        return f"{key}: missing; it is required"
    if kind == "value_error":
        return f"{key}: {context['error']}"
    allowed = {
        "literal_error": f"{context.get('expected')}",
        "string_pattern_mismatch": f"text that matches {context.get('pattern')}",
    }.get(kind, _lower_first(problem["msg"].removeprefix("Input ").removeprefix("Value ")))
    return f"{key}: received {received!r}; allowed: {allowed.removeprefix('should be ')}"


def _known_keys(location: list[Any]) -> list[str]:
    if location[:1] == ["limits"]:
        return list(RiskLimits.model_fields)
    if location[:1] == ["parameters"]:
        return list(ParameterSpec.model_fields)
    if location[:1] == ["inputs"]:
        return [field.alias or name for name, field in InputSpec.model_fields.items()]
    return list(Contract.model_fields)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
