//! How far a replica goes to reach a version.

use super::group::settings;

settings! {
    /// How far a replica goes to reach a version.
    pub struct Plans {
        /// Plans that are tried when objects vanish or local files turn out to be damaged [default: 4].
        /// Each starts from what is there by then, so more do not help against lasting damage.
        plan_attempts: u32 = 4;
        /// The most edges of a plan, and the most patches that a range reader goes through [default: 1024].
        /// Twice the versions after which a publisher adds an anchor; a longer chain is a publisher that adds
        /// none.
        max_edges: usize = 1024;
        /// The most edge records (anchors and folds added later) that are read [default: 4096].
        /// A collector leaves some dozens; of more, those to the newest versions are read.
        max_edge_records: usize = 4096;
        /// The most objects that a list may have [default: 1000000]. A version has a handful, and a collector
        /// removes the old ones: this is a stream that nobody collects, or a server whose lists do not end.
        max_listed: usize = 1_000_000;
        /// The most bytes of the records that a plan, a log or a check keeps [default: 256MiB].
        /// A version has about a kilobyte of them, so this is enough for a hundred thousand versions.
        max_history_bytes: u64 = 256 << 20;
        /// The most bytes of the objects of a plan [default: no limit].
        /// For replicas on a metered network: an anchor has as many bytes as the model.
        max_plan_bytes: u64 = u64::MAX;
    }
}
