"""What a desk is asked: the parameters of a ``RunRequested`` whose workflow type is ``langgraph``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from quantflow.errors import GraphError
from quantflow.events.types import Name, Sha256
from quantflow.risk import RiskLimits

__all__ = ["DeskRequest"]

Fraction = Annotated[float, Field(ge=0, le=1)]


class DeskRequest(BaseModel):
    """Everything that a desk may decide on.

    ``base_weights`` are the signal's exposures as signed fractions of equity: the most that the
    desk can end with. ``returns_blob`` is the SHA-256 of a Parquet frame in the blob store:
    ``session`` and one column of simple returns per symbol, oldest first, nothing later than
    the run's ``as_of``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pipeline: Name
    version_id: Sha256
    base_weights: dict[str, FiniteFloat]
    returns_blob: Sha256
    limits: RiskLimits
    approval: Literal["auto", "human"] = "auto"
    approver_role: str = "owner"
    min_confidence: Fraction = 0.5
    confidence_level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    approval_expires_in_s: Annotated[float, Field(gt=0)] = 86_400.0

    @classmethod
    def read(cls, parameters: dict[str, Any]) -> DeskRequest:
        """Return the request in a run's parameters.

        Raises
        ------
        GraphError
            Names each key that is missing, unknown or wrong.
        """
        try:
            return cls.model_validate(parameters)
        except ValidationError as exc:
            problems = "\n".join(
                f"  - {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in exc.errors(include_url=False)
            )
            raise GraphError(
                f"the run's parameters are not a desk request:\n{problems}\n"
                f"Allowed keys: {', '.join(cls.model_fields)}."
            ) from exc
