# SPDX-License-Identifier: Apache-2.0
"""`shoal simulate`: any number of 64 bits is a seed, for many worlds and for the trace of one, and what is none is
refused. (That the worlds come to a good end is tests/sim.)"""

from cluster_process import run

LAST = 2**64 - 1


def test_a_trace_is_the_same_twice_for_the_last_seed_too():
    for seed in (0, 2**63, LAST):
        code, trace, errors = run("simulate", "--trace", seed)
        assert code == 0, errors
        assert len(trace.splitlines()) > 10
        assert run("simulate", "--trace", seed) == (0, trace, "")


def test_a_range_may_end_with_the_last_seed():
    code, text, errors = run("simulate", "--seeds", f"{LAST - 3}..{LAST}")
    assert code == 0, errors
    assert text.startswith("4 worlds, "), text


def test_what_is_no_seed_is_refused():
    for arguments in (("--trace", -1), ("--trace", LAST + 1), ("--trace", "x"), ("--seeds", f"1..{LAST + 1}"),
                      ("--seeds", "2..1"), ("--seeds", -1)):
        code, text, errors = run("simulate", *arguments)
        assert code != 0 and text == "", (arguments, text)
        assert arguments[0] in errors, errors
