"""No test of the data package reaches the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from quantflow.testing.network import no_network

# Two cores shared with a broker and a database: how long an example takes says nothing about the code.
settings.register_profile("quantflow", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quantflow")


@pytest.fixture(autouse=True)
def offline() -> Iterator[None]:
    """Refuse every connection."""
    with no_network():
        yield
