"""Which way a version takes into vLLM: a rule over facts, tested without vLLM."""

from __future__ import annotations

import re

import pytest

from tensorpatch.host import Contents
from tensorpatch.torch.names import Specs
from tensorpatch.vllm.routing import SCATTER, Decision, Facts, Route, at_start, for_version, misfit

PLAIN = Facts(checkpoint_patches=True, quantization=None, empty_parameters=0, repacked=False)
CHANGES = Contents(dtypes=("BF16",), elements=10)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts(False, None, 0), "no checkpoint patches"),
        (Facts(True, "fp8", 0), "quantised"),
        (Facts(True, None, 8), "8 parameters were repacked"),
        (Facts(True, None, 0, repacked=True), "another order"),
    ],
)
def test_an_engine_that_cannot_scatter_reloads_every_version(facts: Facts, reason: str) -> None:
    start = at_start(facts)
    assert start.route is Route.RELOAD
    assert reason in start.reason
    assert for_version(start, facts, CHANGES, 4) == start


def test_changes_of_floats_on_a_known_version_are_scattered() -> None:
    assert at_start(PLAIN) == SCATTER
    assert for_version(SCATTER, PLAIN, CHANGES, 4) == SCATTER
    assert for_version(SCATTER, PLAIN, Contents(), 4) == SCATTER


@pytest.mark.parametrize(
    ("contents", "served", "reason"),
    [
        (CHANGES, None, "not known which version"),
        (None, 4, "since version 4"),
        (Contents(dtypes=("BF16",), whole=("new.weight",)), 4, "new.weight is new"),
        (Contents(dtypes=("BF16",), nan=True), 4, "NaN"),
        (Contents(dtypes=("BF16", "I8")), 4, "I8 is not"),
        (Contents(dtypes=("F4",)), 4, "F4 is not"),
        (Contents(dtypes=("F8_E4M3",)), 4, "cannot scatter F8_E4M3"),
    ],
)
def test_a_version_that_cannot_be_scattered_is_reloaded(contents: Contents, served: int, reason: str) -> None:
    decision = for_version(SCATTER, PLAIN, contents, served)
    assert decision.route is Route.RELOAD
    assert reason in decision.reason


def test_eight_bit_floats_are_scattered_where_the_device_can() -> None:
    able = Facts(True, None, 0, repacked=False, fp8_scatter=True)
    assert for_version(SCATTER, able, Contents(dtypes=("F8_E4M3",)), 4) == Decision(Route.SCATTER)


KNOWN = {"w": ("BF16", (4, 4)), "scale": ("F32", ())}


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ({"w": ("BF16", (4, 4))}, "scale is missing"),
        ({**KNOWN, "w": ("BF16", (16,))}, r"w has the shape \[16\], and \[4, 4\] in the model"),
        ({**KNOWN, "w": ("F8_E4M3", (4, 4))}, "w is F8_E4M3, and BF16 in the model"),
    ],
)
def test_what_cannot_fit_the_model_is_known_before_it_is_loaded(version: Specs, why: str) -> None:
    told = misfit(KNOWN, version)
    assert told is not None
    assert re.fullmatch(why, told)


def test_other_floats_new_names_and_scalars_as_vectors_may_fit() -> None:
    assert misfit(KNOWN, {"w": ("F32", (4, 4)), "scale": ("F32", (1,)), "new": ("I8", (3,))}) is None
    assert misfit({}, KNOWN) is None
