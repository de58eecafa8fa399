"""No test of the data package reaches the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quantflow.testing.network import no_network


@pytest.fixture(autouse=True)
def offline() -> Iterator[None]:
    """Refuse every connection."""
    with no_network():
        yield
