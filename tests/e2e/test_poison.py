# SPDX-License-Identifier: Apache-2.0
"""A checkpoint with one value that is no number is refused before anything is served, scored or written, and the value
named: the bundled model is copied and one element of its embedding poisoned. (That logits which overflow fail their own
request alone is worker_step_runner_test's.)"""

import json
import shutil
import struct
import subprocess

import pytest

from cluster_process import MODEL, binary

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


def test_a_poisoned_checkpoint_is_refused_by_name(poisoned_model, tmp_path):
    prompts = tmp_path / "in.json"
    prompts.write_text('{"prompts": [[1, 2]]}')
    out = tmp_path / "out.safetensors"
    for arguments in (("serve", "--workers", "2", "--http", "127.0.0.1:0"),
                      ("run", "--prompt", "To be"),
                      ("score", "--tokens", prompts, "--out", out)):
        done = subprocess.run([binary(), *arguments, "--model", poisoned_model], timeout=60, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == 1, (arguments, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"shoal {arguments[0]}:"), done.stderr
        assert f"{TENSOR}: holds NaN at [{POISON}, 0]" in last, done.stderr
        assert "listening" not in done.stdout
    assert not out.exists()
