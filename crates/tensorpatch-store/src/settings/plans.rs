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
        /// The most bytes of the objects of a plan [default: no limit].
        /// For replicas on a metered network: an anchor has as many bytes as the model.
        max_plan_bytes: u64 = u64::MAX;
    }
}
