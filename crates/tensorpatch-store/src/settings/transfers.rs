//! What is sent and received side by side.

use super::group::settings;

settings! {
    /// What is sent and received side by side, in objects and in bytes.
    pub struct Transfers {
        /// HTTP requests at once for each opened URL, whatever they are for [default: 64].
        /// Enough for all of the following together; a file descriptor each.
        max_connections: usize = 64;
        /// Small requests at once: records, ranges, sizes, deletions [default: 16].
        /// They are bound by latency: 16 at 30 ms each are 500 records a second.
        parallel_requests: usize = 16;
        /// Objects downloaded at once [default: 4].
        /// A patch is one object, so this counts for anchors of several shards and for replicas far behind.
        parallel_downloads: usize = 4;
        /// Files uploaded at once [default: 2].
        /// Each of them sends several parts at once, see `bytes_in_flight`.
        parallel_uploads: usize = 2;
        /// Bytes of one part of an upload [default: 8MiB].
        /// S3 takes no less than 5MiB; an object of more than 9,000 parts gets larger ones.
        part_bytes: u64 = 8 << 20;
        /// Bytes of one upload that are on their way, in memory [default: 32MiB].
        /// The writer of a patch waits while the store is slower (backpressure).
        bytes_in_flight: u64 = 32 << 20;
    }
}

impl Transfers {
    /// Bytes of one part: a part of none would be sent without end.
    pub(crate) fn part(&self) -> u64 {
        self.part_bytes.max(1)
    }

    /// Parts of one upload, or blocks of one download, in memory at once.
    pub(crate) fn parts_in_flight(&self) -> usize {
        let parts = self.bytes_in_flight.div_euclid(self.part()).clamp(1, 1 << 16);
        usize::try_from(parts).unwrap_or(1)
    }
}
