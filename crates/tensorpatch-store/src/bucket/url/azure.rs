//! Azure Blob Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::path::Path;

use super::client::Connector;
use super::environment::{Environment, trust_bundle};
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
    let (container, prefix) = bucket_and_prefix(url, rest)?;
    let refuse = |what: String| bad(url, what);
    let environment =
        Environment::of_process(&["AZURE_", "IDENTITY_ENDPOINT", "REQUESTS_CA_BUNDLE"]).map_err(refuse)?;
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("AZURE_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(endpoint) = environment.get("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let builder = builder.with_container_name(container);
    let plain =
        |key| builder.get_config_value(&key).is_some_and(|value: String| value.starts_with("http://"));
    let emulator = builder
        .get_config_value(&AzureConfigKey::UseEmulator)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let allow_http = emulator || plain(AzureConfigKey::Endpoint);
    let mut options = policy.timeouts.client_options(allow_http);
    if let Some(path) = environment.get("REQUESTS_CA_BUNDLE") {
        options = trust_bundle(options, "REQUESTS_CA_BUNDLE", path).map_err(refuse)?;
    }
    let names = [AzureConfigKey::AccountName, AzureConfigKey::Endpoint];
    if !emulator && names.iter().all(|key| builder.get_config_value(key).is_none()) {
        return Err(refuse("no account is named: set AZURE_STORAGE_ACCOUNT_NAME".into()));
    }
    let store = builder
        .with_client_options(options)
        .with_retry(policy.retries.retry_config())
        .with_http_connector(Connector::counting(requests))
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}
