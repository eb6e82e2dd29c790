"""Models of torch as the tensors of a checkpoint, and what a training step changed in them.

`state_of` walks a model under the names of its checkpoint file. `Snapshot` remembers the state that was published last
and finds the elements that differ, on the device where the tensors are. `rank_state` does the same for models that
are sharded over processes.
"""

from .changes import Change, Snapshot, changed
from .names import Names, state_of
from .ranks import doubled, gather_to, owners, rank_state

__all__ = ["Change", "Names", "Snapshot", "changed", "doubled", "gather_to", "owners", "rank_state", "state_of"]
