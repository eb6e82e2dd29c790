//! S3 and its compatibles.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;

use super::profile::Profile;
use super::{bad, bucket_and_prefix, set_up};
use crate::error::StoreError;
use crate::settings::Policy;

/// Variables any of which says where credentials come from, so that profiles are not looked at.
const SOURCES: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

pub(super) fn open(
    url: &str,
    rest: &str,
    policy: &Policy,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let (bucket, prefix) = bucket_and_prefix(url, rest)?;
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if !SOURCES.iter().any(|name| std::env::var_os(name).is_some())
        && let Some(profile) = Profile::load().map_err(|what| bad(url, what))?
    {
        builder = profile.apply(builder);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let allow_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
        || std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
    let store = builder
        .with_client_options(policy.timeouts.client_options(allow_http))
        .with_retry(policy.retries.retry_config())
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}
