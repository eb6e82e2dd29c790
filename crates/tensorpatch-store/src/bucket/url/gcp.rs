//! Google Cloud Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;

use super::{bucket_and_prefix, set_up};
use crate::error::StoreError;
use crate::settings::Policy;

pub(super) fn open(
    url: &str,
    rest: &str,
    policy: &Policy,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let (bucket, prefix) = bucket_and_prefix(url, rest)?;
    let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
    let store = builder
        .with_client_options(policy.timeouts.client_options(false))
        .with_retry(policy.retries.retry_config())
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}
