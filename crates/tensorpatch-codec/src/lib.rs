//! Pure kernels of tensorpatch: compare, encode, decode and digest chunks of tensor bytes.
