"""Which way a version takes into a running vLLM: changes scattered in place, or a reload of the local checkpoint.

The rule is decided at start, for what the engine is, and again for each version, for what it changes. What can be
loaded at all can be reloaded, so no case is a failure; what cannot is refused before anything of it is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from ..host import Contents
from ..torch.names import Specs

# By itself a floating-point dtype: the scatter marks what stays with NaN.
FLOATS = {"BF16", "F16", "F32", "F64"}
FP8 = {"F8_E4M3", "F8_E5M2"}


class Route(str, Enum):
    """The two ways."""

    SCATTER = "scatter"
    RELOAD = "reload"


@dataclass(frozen=True)
class Decision:
    """A way, and why: the reason is empty for a scatter."""

    route: Route
    reason: str = ""


@dataclass(frozen=True)
class Facts:
    """What an engine is, found when it is initialised."""

    checkpoint_patches: bool  # vLLM has `checkpoint_weight_patch`: 0.29 and later
    quantization: str | None
    empty_parameters: int  # parameters that a kernel took over, and left empty
    repacked: bool | None = None  # scattering values that are there already changed the weights; None: not tried
    fp8_scatter: bool = False  # the device can scatter 8-bit floats


SCATTER = Decision(Route.SCATTER)


def at_start(facts: Facts) -> Decision:
    """The way for every version of this engine, unless a version asks for the reload."""
    if not facts.checkpoint_patches:
        return Decision(Route.RELOAD, "this vLLM has no checkpoint patches (0.29 and later have)")
    if facts.quantization is not None:
        return Decision(Route.RELOAD, f"the weights are quantised when they are loaded ({facts.quantization})")
    if facts.empty_parameters:
        return Decision(Route.RELOAD, f"{facts.empty_parameters} parameters were repacked for a kernel")
    if facts.repacked:
        return Decision(Route.RELOAD, "the weights lie in another order than the model loads them")
    return SCATTER


def for_version(start: Decision, facts: Facts, contents: Contents | None, served: int | None) -> Decision:
    """The way for one version. `contents` is `None` if the changes since `served` are not known."""
    if start.route is Route.RELOAD:
        return start
    if served is None:
        return Decision(Route.RELOAD, "it is not known which version the engine serves")
    if contents is None:
        return Decision(Route.RELOAD, f"the changes since version {served} are not on this host")
    if contents.whole:
        return Decision(Route.RELOAD, f"{contents.whole[0]} is new, or has another dtype or shape")
    if contents.nan:
        return Decision(Route.RELOAD, "some new values are NaN, which marks unchanged elements in a scatter")
    for dtype in contents.dtypes:
        if dtype in FP8 and not facts.fp8_scatter:
            return Decision(Route.RELOAD, f"this device cannot scatter {dtype}")
        if dtype not in FLOATS | FP8:
            return Decision(Route.RELOAD, f"{dtype} is not a floating-point dtype")
    return SCATTER


def misfit(known: Specs, version: Specs) -> str | None:
    """Why a version does not fit a model that was loaded with tensors like `known`; `None` if nothing is known of it.

    New tensors are not against it: models pass over some names, and only loading shows which.
    """
    for name, (dtype, shape) in known.items():
        if name not in version:
            return f"{name} is missing"
        new_dtype, new_shape = version[name]
        # A scalar may be written as a vector of one.
        if new_shape != shape and not math.prod(new_shape) == math.prod(shape) == 1:
            return f"{name} has the shape {list(new_shape)}, and {list(shape)} in the model"
        if new_dtype != dtype and not {new_dtype, dtype} <= FLOATS:
            return f"{name} is {new_dtype}, and {dtype} in the model"
    return None
