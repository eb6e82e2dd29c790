//! Azure Blob Storage.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::path::Path;

use super::{bucket_and_prefix, set_up};
use crate::error::StoreError;
use crate::settings::Policy;

pub(super) fn open(
    url: &str,
    rest: &str,
    policy: &Policy,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let (container, prefix) = bucket_and_prefix(url, rest)?;
    let builder = MicrosoftAzureBuilder::from_env().with_container_name(container);
    let plain =
        |key| builder.get_config_value(&key).is_some_and(|value: String| value.starts_with("http://"));
    let emulator = builder
        .get_config_value(&AzureConfigKey::UseEmulator)
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let allow_http = emulator || plain(AzureConfigKey::Endpoint);
    let store = builder
        .with_client_options(policy.timeouts.client_options(allow_http))
        .with_retry(policy.retries.retry_config())
        .build();
    Ok((set_up(url, store, policy)?, prefix))
}
