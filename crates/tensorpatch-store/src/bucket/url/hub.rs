//! Buckets of the Hugging Face Hub: by its S3 gateway with S3 keys, else for reading with a token or none.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;

use super::{bad, bucket_and_prefix, set_up};
use crate::bucket::hub::HubBucket;
use crate::error::StoreError;
use crate::settings::Policy;

/// The gateway, to which the namespace is appended.
const GATEWAY: &str = "https://s3.hf.co";
/// The Hub itself.
const HUB: &str = "https://huggingface.co";

/// S3 keys made for the Hub decide for the gateway, then a token of the Hub for reading, then the keys of
/// AWS, which a user of the gateway may have set in their place; who has none of them reads what is public.
pub(super) fn open(
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
    let keys = |prefix: &str| {
        Some((
            variable(&format!("{prefix}_ACCESS_KEY_ID"))?,
            variable(&format!("{prefix}_SECRET_ACCESS_KEY"))?,
        ))
    };
    let token = token().map_err(|what| bad(url, what))?;
    let store = match keys("HF_S3").or_else(|| keys("AWS").filter(|_| token.is_none())) {
        Some(keys) => gateway(url, namespace, bucket, keys, policy)?,
        None => {
            let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.into());
            let options = policy.timeouts.client_options(endpoint.starts_with("http://"));
            let id = format!("{namespace}/{bucket}");
            let store =
                HubBucket::new(&endpoint, &id, token.as_deref(), options, policy.retries.retry_config());
            set_up(url, store, policy)?
        }
    };
    Ok((store, prefix))
}

/// The gateway keeps conditions on puts but not on gets, stores no metadata or tags, and answers a get with a
/// redirect. None of that is used here; the client follows the redirect without its credentials.
fn gateway(
    url: &str,
    namespace: &str,
    bucket: &str,
    (key, secret): (String, String),
    policy: &Policy,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let gateway = variable("HF_S3_ENDPOINT").unwrap_or_else(|| GATEWAY.into());
    let endpoint = format!("{}/{namespace}", gateway.trim_end_matches('/'));
    let store = AmazonS3Builder::new()
        .with_endpoint(&endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .with_disable_tagging(true)
        .with_client_options(policy.timeouts.client_options(endpoint.starts_with("http://")))
        .with_retry(policy.retries.retry_config())
        .build();
    set_up(url, store, policy)
}

/// The token that the Hub's own tools would use: of the environment, else what `hf auth login` stored.
fn token() -> Result<Option<String>, String> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = variable(name) {
            return plain(token, name).map(Some);
        }
    }
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return Ok(None);
    }
    let Some(path) = token_file() else { return Ok(None) };
    // Without it, or without the right to read it, nobody is logged in.
    let Ok(stored) = std::fs::read_to_string(&path) else { return Ok(None) };
    match stored.trim() {
        "" => Ok(None),
        token => plain(token.to_owned(), &path.display().to_string()).map(Some),
    }
}

fn token_file() -> Option<PathBuf> {
    let home = || {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(cache.join("huggingface"))
    };
    variable("HF_TOKEN_PATH")
        .map(PathBuf::from)
        .or_else(|| Some(variable("HF_HOME").map(PathBuf::from).or_else(home)?.join("token")))
}

/// A token goes into a header as it is.
fn plain(token: String, source: &str) -> Result<String, String> {
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(token);
    }
    Err(format!("what {source} holds is no token: it has a blank or a character that no token has"))
}

/// A variable that is set to something, without blanks or line breaks around it.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}
