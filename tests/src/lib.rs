//! Whole-system tests of tensorpatch: see the files beside this one.
