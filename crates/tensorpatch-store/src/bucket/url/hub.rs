//! Buckets of the Hugging Face Hub: by its S3 gateway with S3 keys, else by its own interface with a token or
//! none.

use std::path::PathBuf;

use object_store::aws::AmazonS3Builder;

use super::client::Connector;
use super::environment::{Environment, check_plain, expand_home, trust_bundle};
use super::{Opened, bad, bucket_and_prefix, set_up};
use crate::bucket::hub::HubBucket;
use crate::bucket::requests::Requests;
use crate::error::StoreError;
use crate::settings::Policy;

/// The gateway, to which the namespace is appended.
const GATEWAY: &str = "https://s3.hf.co";
/// Prefixes of the variables that count.
const VARIABLES: [&str; 5] =
    ["HF_", "HUGGING_FACE_HUB_TOKEN", "AWS_", "REQUESTS_CA_BUNDLE", "XDG_CACHE_HOME"];
/// The Hub itself.
const HUB: &str = "https://huggingface.co";

/// S3 keys made for the Hub decide for the gateway, then a token of the Hub for its own interface, then the
/// keys of AWS, which a user of the gateway may have set in their place; who has none of them reads what is
/// public.
pub(super) fn open(
    url: &str,
    rest: &str,
    policy: &Policy,
    requests: &Requests,
) -> Result<Opened, StoreError> {
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
    let refuse = |what: String| bad(url, what);
    let environment = Environment::of_process(&VARIABLES).map_err(refuse)?;
    let keys = |prefix: &str| {
        let key = environment.get(&format!("{prefix}_ACCESS_KEY_ID"))?;
        Some((key, environment.get(&format!("{prefix}_SECRET_ACCESS_KEY"))?))
    };
    let token = token(&environment).map_err(refuse)?;
    let options = |endpoint: &str| {
        let options = policy.timeouts.client_options(endpoint.starts_with("http://"));
        let bundle = environment.first(&["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"]);
        bundle.map_or(Ok(options.clone()), |(name, path)| trust_bundle(options, name, path)).map_err(refuse)
    };
    let keys = keys("HF_S3").or_else(|| keys("AWS").filter(|_| token.is_none()));
    let single_writer = keys.is_none();
    let store = match keys {
        Some(keys) => {
            let endpoint = environment.get("HF_S3_ENDPOINT").unwrap_or(GATEWAY);
            let endpoint = format!("{}/{namespace}", endpoint.trim_end_matches('/'));
            let store = gateway(&endpoint, bucket, keys, policy)
                .with_client_options(options(&endpoint)?)
                .with_http_connector(Connector::counting(requests));
            set_up(url, store.build(), policy)?
        }
        None => {
            let endpoint = environment.get("HF_ENDPOINT").unwrap_or(HUB);
            let options = options(endpoint)?;
            let id = format!("{namespace}/{bucket}");
            let retry = policy.retries.retry_config();
            let store = HubBucket::new(endpoint, &id, token.as_deref(), options, retry, requests);
            set_up(url, store, policy)?
        }
    };
    Ok(Opened { single_writer, ..(store, prefix).into() })
}

/// The gateway keeps conditions on puts but not on gets, stores no metadata or tags, and answers a get with a
/// redirect. None of that is used here; the client follows the redirect without its credentials.
fn gateway(endpoint: &str, bucket: &str, (key, secret): (&str, &str), policy: &Policy) -> AmazonS3Builder {
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .with_disable_tagging(true)
        .with_retry(policy.retries.retry_config())
}

/// The token that the Hub's own tools would use: of the environment, else what `hf auth login` stored.
fn token(environment: &Environment) -> Result<Option<String>, String> {
    if let Some((name, token)) = environment.first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
        check_plain(name, token)?;
        return Ok(Some(token.to_owned()));
    }
    if environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return Ok(None);
    }
    let Some(path) = token_file(environment) else { return Ok(None) };
    // Without it, or without the right to read it, nobody is logged in.
    let Ok(stored) = std::fs::read_to_string(&path) else { return Ok(None) };
    let token = stored.trim();
    check_plain(&path.display().to_string(), token)?;
    Ok(Some(token.to_owned()).filter(|token| !token.is_empty()))
}

fn token_file(environment: &Environment) -> Option<PathBuf> {
    let variable = |name: &str| environment.get(name).map(expand_home);
    let home = || {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(cache.join("huggingface"))
    };
    variable("HF_TOKEN_PATH").or_else(|| Some(variable("HF_HOME").or_else(home)?.join("token")))
}
