//! The tensorpatch command line.
fn main() {}
