# SPDX-License-Identifier: Apache-2.0
"""Shows that nobody notices when the system's clock is set, by hours, in either direction: what runs goes on, what comes
is served, no worker is taken for dead, and one that does die is noticed and replaced as ever. The clock is that of
stepped_clock.c, which the processes of the cluster have preloaded."""

import mmap
import os
import pathlib
import signal
import struct
import subprocess
import time

import pytest

from cluster_process import Serve, Stream, complete, wait_for

HOURS = 3600


class SystemClock:
    """The time of day of all processes that have `environment`: `step_s` sets it forward or back."""

    def __init__(self, directory):
        library, file = directory / "stepped_clock.so", directory / "ahead_s"
        source = pathlib.Path(__file__).with_name("stepped_clock.c")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
        file.write_bytes(struct.pack("q", 0))
        with open(file, "r+b") as opened:
            self._ahead = mmap.mmap(opened.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(file)}

    def step_s(self, seconds):
        self._ahead[:] = struct.pack("q", struct.unpack("q", self._ahead[:])[0] + seconds)


@pytest.mark.parametrize("transport", ("shm", "grpc"))
def test_setting_the_clock_stops_and_refuses_nothing(transport, tmp_path):
    clock = SystemClock(tmp_path)
    with Serve(workers=2, transport=transport, environment=clock.environment) as cluster:
        expected = complete(cluster.url)
        text = Stream(cluster.url, max_tokens=700, ignore_eos=True).join().text
        for step_s in (-2 * HOURS, 4 * HOURS, -2 * HOURS):
            epoch = cluster.cluster()["epoch"]
            running = Stream(cluster.url, max_tokens=700, ignore_eos=True)
            running.wait_for_text()
            clock.step_s(step_s)
            until = time.monotonic() + 2  # several times what a silent worker is given
            while time.monotonic() < until:
                assert complete(cluster.url) == expected, step_s
            assert running.join().text == text, running.error
            state = cluster.cluster()
            assert state["epoch"] == epoch and state["serving"], (step_s, state)

            os.kill(state["workers"][0]["pid"], signal.SIGKILL)
            wait_for(lambda: cluster.cluster()["epoch"] > epoch, 10, "noticed")
            wait_for(lambda: all(w["state"] == "serving" for w in cluster.cluster()["workers"]), 10, "whole again")
            assert complete(cluster.url) == expected, step_s
        assert cluster.terminate() == 0
