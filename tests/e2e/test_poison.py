# SPDX-License-Identifier: Apache-2.0
"""A request whose logits are no numbers gets an error of its own: other requests go on and no worker is blamed. The
bundled model is copied and one row of its embedding poisoned."""

import json
import shutil
import struct

import pytest

from cluster_process import MODEL, Serve, Stream, complete, post

POISON = 777
TENSOR = "model.embed_tokens.weight"


@pytest.fixture
def poisoned_model(tmp_path):
    model = tmp_path / "shoal-tiny"
    shutil.copytree(MODEL, model)
    index = json.loads((model / "model.safetensors.index.json").read_text())
    with open(model / index["weight_map"][TENSOR], "r+b") as shard:
        header_bytes = struct.unpack("<Q", shard.read(8))[0]
        tensor = json.loads(shard.read(header_bytes))[TENSOR]
        row_bytes = 2 * tensor["shape"][1]
        shard.seek(8 + header_bytes + tensor["data_offsets"][0] + POISON * row_bytes)
        shard.write(struct.pack("<H", 0x7FC0))  # a bf16 NaN
    return model


def test_a_poisoned_request_fails_alone(poisoned_model):
    with Serve(model=poisoned_model) as cluster:
        before = complete(cluster.url)
        pids, epoch = cluster.worker_pids(), cluster.cluster()["epoch"]
        stream = Stream(cluster.url, max_tokens=1500, ignore_eos=True)
        stream.wait_for_text()
        for fields in ({}, {"temperature": 0}, {"logprobs": 2}, {"echo": True, "logprobs": 1}):
            status, answer = post(cluster.url, {"prompt": [5, POISON], "max_tokens": 2, **fields})
            assert status == 500 and "nan" in answer["error"]["message"], answer
        stream.join()
        assert stream.finish_reason == "length" and stream.error is None
        assert complete(cluster.url) == before
        assert cluster.worker_pids() == pids and cluster.cluster()["epoch"] == epoch
