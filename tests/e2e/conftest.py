# SPDX-License-Identifier: Apache-2.0
"""One server for all tests that only need one: SHOAL_URL if set, else a `shoal serve` of our own."""

import os

import pytest

from api_process import ShoalServe


@pytest.fixture(scope="session")
def url():
    if os.environ.get("SHOAL_URL"):
        yield os.environ["SHOAL_URL"].rstrip("/")
        return
    with ShoalServe() as server:
        yield server.url
