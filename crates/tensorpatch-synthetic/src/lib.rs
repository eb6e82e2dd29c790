//! Synthetic training runs whose bf16 checkpoints change the way reinforcement learning changes them.
