//! How long a store may take to answer.

use std::time::Duration;

use super::group::settings;

settings! {
    /// How long a store may take to answer.
    pub struct Timeouts {
        /// Time to connect to a bucket [default: 10s].
        connect_timeout: Duration = Duration::from_secs(10);
        /// How long a connection may be silent before its request counts as failed [default: 30s].
        /// A large transfer has no other limit: a download of many gigabytes is one request.
        idle_timeout: Duration = Duration::from_secs(30);
        /// Time for the whole of a small request, such as a record or a range, with the retries of the client
        /// below it [default: 5min].
        /// More than `client_retry_timeout`, which would never be reached otherwise.
        request_timeout: Duration = Duration::from_secs(300);
    }
}

impl Timeouts {
    #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
    pub(crate) fn client_options(&self, allow_http: bool) -> object_store::ClientOptions {
        object_store::ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(self.idle_timeout)
            .with_connect_timeout(self.connect_timeout)
            .with_allow_http(allow_http)
    }
}
