//! Safetensors checkpoints as files: strict headers, Hugging Face directories, memory maps, durable writing.
