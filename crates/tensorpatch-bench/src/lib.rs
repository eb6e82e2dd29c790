//! Side-by-side measurements of tensorpatch and the encodings it replaces.
