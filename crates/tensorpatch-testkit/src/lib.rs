//! Shared helpers of the tensorpatch tests: strategies, fixtures, mutations, fault injection.
