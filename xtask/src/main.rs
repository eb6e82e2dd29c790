//! The chores of the tensorpatch workspace.
fn main() {}
