"""Which language model the settings mean: Ollama where one is found, the embedded server otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from quantflow.llm._answers import LanguageModel, NoLanguageModel
from quantflow.llm._chat import ChatLanguageModel
from quantflow.settings import Settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["MAX_TOKENS", "connect"]

#: Bound of one answer. The desk's schemas close well before it.
MAX_TOKENS = 320
_PARAMETERS: Mapping[str, Any] = {"temperature": 0, "seed": 7, "max_tokens": MAX_TOKENS}
_CONTEXT_TOKENS = 4096
_PROBE_TIMEOUT_S = 2.0


def connect(settings: Settings) -> LanguageModel:
    """Return the language model that the settings name; never raises and sends no prompt.

    ``auto`` takes an Ollama that answers at ``settings.ollama_url`` with at least one language
    model, and the embedded (OpenAI-compatible) server otherwise. Where nothing answers, the
    result says so at every call, so that the caller holds instead of failing.
    """
    if settings.llm_backend == "none":
        return NoLanguageModel("no language model: QUANTFLOW_LLM_BACKEND is 'none'")
    if settings.llm_backend == "embedded":
        return _embedded(settings)
    found = _ollama(settings)
    if settings.llm_backend == "ollama" or not isinstance(found, NoLanguageModel):
        return found
    return _embedded(settings)


def _embedded(settings: Settings) -> LanguageModel:
    try:
        listed = _get(f"{settings.embedded_llm}/models")
        name = str(listed["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as exc:
        reason = f"no language model server at {settings.embedded_llm}: {exc or type(exc).__name__}"
        return NoLanguageModel(f"{reason}; `quantflow status` shows whether it runs", backend="embedded")

    client = httpx.Client(trust_env=False)

    def chat(timeout_s: float) -> BaseChatModel:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(
            model=name,
            base_url=settings.embedded_llm,
            # Explicit, so that no key, organisation or project of the user's environment is sent.
            api_key=SecretStr("none"),
            default_headers={"OpenAI-Organization": "", "OpenAI-Project": ""},
            temperature=_PARAMETERS["temperature"],
            seed=_PARAMETERS["seed"],
            max_retries=0,
            timeout=timeout_s,
            stream_usage=True,
            http_client=client,
        )

    return ChatLanguageModel("embedded", name, _PARAMETERS, chat, _openai_arguments)


def _openai_arguments(json_schema: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {"name": str(json_schema.get("title", "answer")), "strict": True, "schema": dict(json_schema)}
    # As extra_body: given as an argument it would send the client through its own parser, which
    # raises on an answer that was cut off instead of showing it. llama.cpp and vLLM know max_tokens.
    body = {"response_format": {"type": "json_schema", "json_schema": wanted}, "max_tokens": MAX_TOKENS}
    return {"extra_body": body}


def _ollama(settings: Settings) -> LanguageModel:
    address = settings.ollama_url.rstrip("/")
    try:
        listed = _get(f"{address}/api/tags")["models"]
        names = [str(entry["name"]) for entry in listed if _writes_text(entry)]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as exc:
        return NoLanguageModel(f"no Ollama answers at {address}: {exc or type(exc).__name__}", backend="ollama")
    name = settings.ollama_language_model or (names[0] if names else "")
    if not name:
        return NoLanguageModel(f"the Ollama at {address} has no language model; `ollama pull` one", backend="ollama")

    def chat(timeout_s: float) -> BaseChatModel:
        from langchain_ollama import ChatOllama

        return ChatOllama(
            model=name,
            base_url=address,
            temperature=_PARAMETERS["temperature"],
            seed=_PARAMETERS["seed"],
            num_predict=MAX_TOKENS,
            num_ctx=_CONTEXT_TOKENS,
            client_kwargs={"timeout": timeout_s, "trust_env": False},
        )

    return ChatLanguageModel("ollama", name, _PARAMETERS, chat, _ollama_arguments)


def _ollama_arguments(json_schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": dict(json_schema)}


def _writes_text(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of ``/api/tags`` is a language model: embedding models are listed, too."""
    families = (entry.get("details") or {}).get("families") or []
    return not any("bert" in str(family) for family in families)


def _get(url: str) -> Any:
    answer = httpx.get(url, timeout=_PROBE_TIMEOUT_S, trust_env=False)
    answer.raise_for_status()
    return answer.json()
