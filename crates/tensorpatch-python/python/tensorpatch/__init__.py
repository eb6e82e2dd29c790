"""Delta weight sync for safetensors checkpoints: publish every training step, follow it anywhere.

A patch between two checkpoints, on disk or in memory::

    import tensorpatch

    tensorpatch.diff("step-5", model.state_dict(), "step-6.tpatch")
    tensorpatch.apply("step-5", "step-6.tpatch", in_place=True)

A stream of versions from a trainer to its replicas::

    publisher = tensorpatch.Publisher("s3://bucket/run-7")
    publisher.publish(model.state_dict(), label="step 7")

    replica = tensorpatch.Replica("s3://bucket/run-7", "replica")
    for pulled in replica.follow():
        engine.reload(replica.directory)

Tensors come from torch, JAX, NumPy or anything else that exports DLPack, and are read where they are. Long work
releases the interpreter, and an interrupt ends every wait. Nothing but the extension is imported.
"""

from tensorpatch import exceptions
from tensorpatch._files import apply, convert, diff, digest, inspect
from tensorpatch._native import Array, Raw, __version__
from tensorpatch._patches import TensorPatch, patches
from tensorpatch._publisher import Publisher
from tensorpatch._replica import Prepared, Replica
from tensorpatch._reports import (
    AnchorAdded,
    ApplyReport,
    ConvertReport,
    DiffReport,
    EncodingUse,
    Fault,
    LeftOut,
    PatchInfo,
    Published,
    Pulled,
    PulledEdge,
    Report,
    RolledBack,
    Verified,
    Version,
)
from tensorpatch._types import (
    Changes,
    Companions,
    ProgressCallback,
    StateLike,
    SupportsArrayInterface,
    SupportsDLPack,
    TensorLike,
)
from tensorpatch.exceptions import *  # noqa: F403

__all__ = [
    "AnchorAdded",
    "ApplyReport",
    "Array",
    "Changes",
    "Companions",
    "ConvertReport",
    "DiffReport",
    "EncodingUse",
    "Fault",
    "LeftOut",
    "PatchInfo",
    "Prepared",
    "ProgressCallback",
    "Published",
    "Publisher",
    "Pulled",
    "PulledEdge",
    "Raw",
    "Replica",
    "Report",
    "RolledBack",
    "StateLike",
    "SupportsArrayInterface",
    "SupportsDLPack",
    "TensorLike",
    "TensorPatch",
    "Verified",
    "Version",
    "__version__",
    "apply",
    "convert",
    "diff",
    "digest",
    "exceptions",
    "inspect",
    "patches",
    *exceptions.__all__,
]
