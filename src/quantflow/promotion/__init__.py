"""Promotion: a reviewed contract becomes a version whose bytes every later run uses.

::

    contract = load_contract(Path("pipelines/momentum.toml"))      # ContractError names every problem
    version = Registry(log).register(path, promoted_by="ana")      # stores bytes, appends PipelinePromoted
    directory = Registry(log).materialise(version, home / "versions")
    signal = bind_signal(directory, version.contract)              # from those bytes only

A version is numbered per pipeline and identified by the hash of its files, so editing the
working files afterwards changes nothing for it, and registering unchanged files again gives
the same version.

Names load on first use. ``quantflow.promotion.plans`` alone is what rendering DAGs imports:
it needs the event log and nothing heavier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantflow.lazy import lazy_names

if TYPE_CHECKING:
    from quantflow.promotion.contract import Contract, InputSpec, ParameterSpec, load_contract
    from quantflow.promotion.plans import PromotionPlan, dag_id_of, read_plans
    from quantflow.promotion.registry import Registry, Version
    from quantflow.promotion.versions import bind_signal, load_contract_of, load_object

__all__ = [
    "Contract",
    "InputSpec",
    "ParameterSpec",
    "PromotionPlan",
    "Registry",
    "Version",
    "bind_signal",
    "dag_id_of",
    "load_contract",
    "load_contract_of",
    "load_object",
    "read_plans",
]

_HOMES = {
    "Contract": "contract",
    "InputSpec": "contract",
    "ParameterSpec": "contract",
    "PromotionPlan": "plans",
    "Registry": "registry",
    "Version": "registry",
    "bind_signal": "versions",
    "dag_id_of": "plans",
    "load_contract": "contract",
    "load_contract_of": "versions",
    "load_object": "versions",
    "read_plans": "plans",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
