//! Diff and apply over whole checkpoints: parallel, deterministic, in bounded memory.
