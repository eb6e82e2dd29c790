//! Google Cloud Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;

use super::client::Connector;
use super::environment::Environment;
use super::{bad, bucket_and_prefix, set_up};
use crate::bucket::requests::Requests;
use crate::error::StoreError;
use crate::settings::Policy;

pub(super) fn open(
    url: &str,
    rest: &str,
    policy: &Policy,
    requests: &Requests,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let (bucket, prefix) = bucket_and_prefix(url, rest)?;
    let environment =
        Environment::of_process(&["GOOGLE_", "SERVICE_ACCOUNT"]).map_err(|what| bad(url, what))?;
    let mut builder = GoogleCloudStorageBuilder::new();
    if let Some(path) = environment.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("GOOGLE_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_client_options(policy.timeouts.client_options(false))
        .with_retry(policy.retries.retry_config())
        .with_http_connector(Connector::counting(requests))
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}
