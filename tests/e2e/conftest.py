# SPDX-License-Identifier: Apache-2.0
"""One server for all tests that only need one: SHOAL_URL if set, else a `shoal serve` of our own. Tests marked slow run
when SHOAL_SLOW is set."""

import os

import pytest

from api_process import ShoalServe


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; left out unless SHOAL_SLOW is set")


def pytest_collection_modifyitems(items):
    if os.environ.get("SHOAL_SLOW"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; SHOAL_SLOW=1 runs it"))


@pytest.fixture(scope="session")
def url():
    if os.environ.get("SHOAL_URL"):
        yield os.environ["SHOAL_URL"].rstrip("/")
        return
    with ShoalServe() as server:
        yield server.url
