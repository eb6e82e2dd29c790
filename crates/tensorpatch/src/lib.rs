//! Delta weight sync for safetensors checkpoints: publish every training step, follow it anywhere.
