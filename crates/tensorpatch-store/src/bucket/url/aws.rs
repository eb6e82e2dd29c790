//! S3 and its compatibles, and the Hugging Face Hub's S3 gateway.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;

use super::bounded::Bounded;
use super::profile::Profile;
use super::{bad, bucket_and_prefix, set_up};
use crate::error::StoreError;
use crate::settings::Policy;

/// The gateway, to which the namespace is appended.
const HUB: &str = "https://s3.hf.co";
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
        .with_http_connector(Bounded)
        .with_retry(policy.retries.retry_config())
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}

/// The gateway keeps conditions on puts but not on gets, stores no metadata or tags, and answers a get with a
/// redirect. None of that is used here; the client follows the redirect without its credentials.
pub(super) fn open_hub(
    url: &str,
    rest: &str,
    policy: &Policy,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let form = "a Hub URL is hf://buckets/NAMESPACE/BUCKET and a prefix";
    let rest = rest.strip_prefix("buckets/").ok_or_else(|| bad(url, form))?;
    let (namespace, rest) = rest.split_once('/').ok_or_else(|| bad(url, form))?;
    let (bucket, prefix) = bucket_and_prefix(url, rest)?;
    let is_plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if !is_plain(namespace) || !is_plain(bucket) {
        return Err(bad(url, form));
    }
    let hub = std::env::var("HF_S3_ENDPOINT").unwrap_or_else(|_| HUB.into());
    let endpoint = format!("{}/{namespace}", hub.trim_end_matches('/'));
    let variable = |name: &str| {
        std::env::var(format!("HF_S3_{name}")).or_else(|_| std::env::var(format!("AWS_{name}"))).map_err(|_| {
            bad(url, format!(
                "set HF_S3_ACCESS_KEY_ID and HF_S3_SECRET_ACCESS_KEY to an S3 key pair from the token settings of the Hub (HF_S3_{name} is missing)"
            ))
        })
    };
    let store = AmazonS3Builder::new()
        .with_endpoint(&endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id(variable("ACCESS_KEY_ID")?)
        .with_secret_access_key(variable("SECRET_ACCESS_KEY")?)
        .with_disable_tagging(true)
        .with_client_options(policy.timeouts.client_options(endpoint.starts_with("http://")))
        .with_http_connector(Bounded)
        .with_retry(policy.retries.retry_config())
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}
