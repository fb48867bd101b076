"""Engines for the tests: one that all of them share, or one of a test's own, to be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubs.backplane.engines import Engine


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One that nobody disturbs."""
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The test's own."""
    with Engine(tmp_path) as engine:
        yield engine
