"""Every exception that quantflow raises on purpose.

::

    QuantflowError
    ├── SettingsError                 a setting is missing, mistyped or contradicts another
    ├── DataError
    │   ├── InvalidBarsError          rows that are not bars; names the rows
    │   ├── MissingColumnError        an indicator or fill lacks its column
    │   ├── UnknownSourceError        no such market data source
    │   ├── UnknownSymbolError        a source does not have this symbol
    │   ├── UnknownSessionError       a date on which the exchange did not trade
    │   ├── SchemaDriftError          a vendor changed its answer
    │   └── SourceUnavailableError    a vendor could not be reached, retries included
    ├── SignalError
    │   └── ParameterError            unknown, missing, mistyped or out of range
    ├── SweepError                    a sweep that cannot start or go on
    │   ├── SweepTooLargeError        more combinations than memory, time or the caller allow
    │   └── SweepCancelledError       stopped by its caller; carries the rows that are done
    ├── RiskError                     a measure cannot be computed from what was given
    ├── EventError
    │   ├── EventDecodeError          bytes that are not an event of ours
    │   ├── EventTooLargeError        larger than a topic accepts
    │   ├── LeaseLostError            another worker has the work now
│   └── VersionConflictError      the stream moved on since it was read
    ├── TransportError                the broker refused or could not be reached
    ├── LogUnavailableError           the event log's database could not be reached
    ├── ContractError                 a pipeline contract is wrong; names file and key
    ├── UnknownVersionError           no such pipeline or version
    ├── NotebookFailedError           a cell raised; names cell, source and traceback
    ├── ApprovalError                 an approval that does not fit its proposal
    ├── GraphError                    a graph that cannot be built or resumed
    ├── LanguageModelError            no usable answer from a language model
    │   ├── LanguageModelTimeoutError         it did not finish in time
    │   └── LanguageModelUnavailableError     none is configured, found or answering
    ├── OrchestrationError            an engine refused or could not be reached
    │   └── EngineUnavailableError    it cannot take the request now; the same request may work later
    ├── UnknownRunError               no such run
    └── StackError
        ├── PrerequisiteError         something must be installed first
        ├── PortBusyError             another process holds the port
        └── ServiceFailedError        a service did not become healthy

A message says what was received, what is allowed and what to do next. Foreign
exceptions are translated where they enter, with ``raise … from exc``.
"""

from __future__ import annotations

from collections.abc import Sequence


class QuantflowError(Exception):
    """Base of every exception raised on purpose; its text is meant for the user."""


class SettingsError(QuantflowError):
    """A setting is missing, mistyped or contradicts another one."""


class DataError(QuantflowError):
    """Market data that cannot be used."""


class InvalidBarsError(DataError):
    """Rows that are not valid bars; nothing was written.

    Parameters
    ----------
    problems
        One line per kind of problem, each naming the offending rows.
    """

    def __init__(self, problems: Sequence[str], *, source: str = "bars") -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: not valid bars, nothing was written:\n{lines}")


class MissingColumnError(DataError):
    """An indicator or a fill needs a column that these bars do not have."""


class UnknownSourceError(DataError):
    """No market data source of that name."""


class UnknownSymbolError(DataError):
    """A market data source does not have this symbol."""


class UnknownSessionError(DataError):
    """A date on which the exchange's calendar has no session, so no bar can exist."""


class SchemaDriftError(DataError):
    """A vendor's answer no longer has the shape that is known."""


class SourceUnavailableError(DataError):
    """A vendor could not be reached, retries included."""


class SignalError(QuantflowError):
    """A signal definition that cannot be used."""


class ParameterError(SignalError):
    """A parameter is unknown, missing, mistyped or out of range."""


class SweepError(QuantflowError):
    """A sweep that cannot start, or cannot go on."""


class SweepTooLargeError(SweepError):
    """More combinations than memory, time or the caller allow; nothing was computed."""


class SweepCancelledError(SweepError):
    """A sweep was stopped by its caller.

    Parameters
    ----------
    result
        The rows of the combinations that were done, a frame as the sweep returns, in grid order.
    """

    def __init__(self, message: str, *, result: object) -> None:
        self.result = result
        super().__init__(message)


class RiskError(QuantflowError):
    """A risk measure cannot be computed from what was given."""


class EventError(QuantflowError):
    """An event that cannot be handled."""


class EventDecodeError(EventError):
    """Bytes that are not one of our events."""


class EventTooLargeError(EventError):
    """An event is larger than its topic accepts."""


class VersionConflictError(EventError):
    """The stream has moved on since it was read; read it again and decide again."""


class LeaseLostError(EventError):
    """The lease ran out and another worker has the work; stop working on it."""


class TransportError(QuantflowError):
    """The broker refused, or could not be reached."""


class LogUnavailableError(QuantflowError):
    """The event log's database could not be reached."""


class ContractError(QuantflowError):
    """A pipeline contract is wrong.

    Parameters
    ----------
    problems
        One line per problem: key, what was received, what is allowed.
    """

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{path}: not a valid contract:\n{lines}")


class UnknownVersionError(QuantflowError):
    """No such pipeline, or no such version of it."""


class NotebookFailedError(QuantflowError):
    """A notebook cell raised; the partial notebook and its HTML are kept.

    Parameters
    ----------
    cell
        Number of the failing cell, counted from 1 over all cells.
    source
        Source of that cell.
    traceback
        The traceback as text, without terminal colours.
    notebook
        Path of the partial notebook.
    """

    def __init__(self, message: str, *, cell: int, source: str, traceback: str, notebook: str) -> None:
        self.cell = cell
        self.source = source
        self.traceback = traceback
        self.notebook = notebook
        super().__init__(message)


class ApprovalError(QuantflowError):
    """An approval is late, edited, a duplicate, or of another proposal."""


class GraphError(QuantflowError):
    """A graph cannot be built or resumed."""


class LanguageModelError(QuantflowError):
    """A language model gave no usable answer."""


class LanguageModelTimeoutError(LanguageModelError):
    """A language model did not finish its answer in time."""


class LanguageModelUnavailableError(LanguageModelError):
    """No language model is configured, found or answering."""


class OrchestrationError(QuantflowError):
    """An engine refused, or could not be reached."""


class EngineUnavailableError(OrchestrationError):
    """An engine cannot take the request now; the same request may be taken later."""


class UnknownRunError(QuantflowError):
    """No such run."""


class StackError(QuantflowError):
    """A local service could not be started, watched or stopped."""


class PrerequisiteError(StackError):
    """Something must be installed first; the message says how."""


class PortBusyError(StackError):
    """Another process holds the port; the message names it."""


class ServiceFailedError(StackError):
    """A service did not become healthy; the message shows the end of its log."""
