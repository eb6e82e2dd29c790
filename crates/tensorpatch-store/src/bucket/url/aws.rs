//! S3 and its compatibles.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;

use super::client::Connector;
use super::command::CommandCredentials;
use super::environment::{Environment, check_endpoint, check_plain, check_region, trust_bundle};
use super::profile::{Profile, Source};
use super::{bad, bucket_and_prefix, set_up};
use crate::bucket::requests::Requests;
use crate::error::StoreError;
use crate::settings::Policy;

/// Settings that are worked out here, and not taken as the environment has them.
const RESOLVED: [AmazonS3ConfigKey; 10] = [
    AmazonS3ConfigKey::AccessKeyId,
    AmazonS3ConfigKey::SecretAccessKey,
    AmazonS3ConfigKey::Token,
    AmazonS3ConfigKey::Region,
    AmazonS3ConfigKey::DefaultRegion,
    AmazonS3ConfigKey::Endpoint,
    AmazonS3ConfigKey::S3Endpoint,
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::Bucket,
];

pub(super) fn open(
    url: &str,
    rest: &str,
    policy: &Policy,
    requests: &Requests,
) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    let (bucket, prefix) = bucket_and_prefix(url, rest)?;
    let store = connect(bucket, policy, requests).map_err(|what| bad(url, what))?;
    Ok((set_up(url, store, policy)?, prefix))
}

/// A client with the settings of the AWS tools: the environment goes before the profile.
fn connect(
    bucket: &str,
    policy: &Policy,
    requests: &Requests,
) -> Result<object_store::Result<object_store::aws::AmazonS3>, String> {
    let environment = Environment::of_process(&["AWS_"])?;
    let profile = Profile::load(&environment)?;
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
    for (name, value) in environment.iter() {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
            && !RESOLVED.contains(&key)
        {
            builder = builder.with_config(key, value);
        }
    }
    let region = environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    if let Some((name, region)) = region.or_else(|| Some(("region", profile.get("region")?))) {
        check_region(name, region)?;
        builder = builder.with_region(region);
    }
    let endpoint = endpoint(&environment, &profile);
    if let Some((name, endpoint)) = endpoint {
        check_endpoint(name, endpoint)?;
        builder = builder.with_endpoint(endpoint);
    }
    let endpoint = endpoint.map(|(_, endpoint)| endpoint);
    if !environment.is_true("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
        && profile.get("s3.addressing_style") == Some("virtual")
    {
        builder = builder.with_virtual_hosted_style_request(true);
        if let Some((scheme, server)) = endpoint.and_then(|endpoint| endpoint.split_once("://")) {
            builder = builder.with_endpoint(format!("{scheme}://{bucket}.{server}"));
        }
    }
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut options = policy.timeouts.client_options(is_plain || environment.is_true("AWS_ALLOW_HTTP"));
    let bundle = environment.first(&["AWS_CA_BUNDLE"]);
    if let Some((name, path)) = bundle.or_else(|| Some(("ca_bundle", profile.get("ca_bundle")?))) {
        options = trust_bundle(options, name, path)?;
    }
    let connector = Connector {
        metadata_endpoint: environment.get("AWS_METADATA_ENDPOINT").map(str::to_owned),
        no_metadata: environment.is_true("AWS_EC2_METADATA_DISABLED"),
        requests: requests.clone(),
    };
    builder = with_credentials(builder, &environment, &profile)?;
    Ok(builder
        .with_client_options(options)
        .with_retry(policy.retries.retry_config())
        .with_http_connector(connector)
        .build())
}

/// The endpoint, and the variable or setting that names it.
fn endpoint<'a>(environment: &'a Environment, profile: &'a Profile) -> Option<(&'a str, &'a str)> {
    let is_true = |value: &str| value.eq_ignore_ascii_case("true");
    if environment.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
        || profile.get("ignore_configured_endpoint_urls").is_some_and(is_true)
    {
        return None;
    }
    let variable = environment.first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
    variable.or_else(|| Some(("endpoint_url", profile.endpoint()?)))
}

/// Credentials by the order of the AWS tools: keys of the environment, a token file, the profile, a container
/// role, the role of the machine.
fn with_credentials(
    builder: AmazonS3Builder,
    environment: &Environment,
    profile: &Profile,
) -> Result<AmazonS3Builder, String> {
    const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
    const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
    let keys = |key_id: &str, secret_key: &str, token: Option<&str>| {
        let builder = builder.clone().with_access_key_id(key_id).with_secret_access_key(secret_key);
        token.into_iter().fold(builder, AmazonS3Builder::with_token)
    };
    let web_identity = |token_file: &str, role: &str| {
        let builder = builder.clone().with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file);
        builder.with_config(AmazonS3ConfigKey::RoleArn, role)
    };
    match (environment.get(KEY_ID), environment.get(SECRET_KEY)) {
        (Some(key_id), Some(secret_key)) => {
            return Ok(keys(key_id, secret_key, environment.get("AWS_SESSION_TOKEN")));
        }
        (Some(_), None) => return Err(format!("{KEY_ID} is set, but {SECRET_KEY} is not")),
        (None, Some(_)) => return Err(format!("{SECRET_KEY} is set, but {KEY_ID} is not")),
        (None, None) => {}
    }
    match (environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environment.get("AWS_ROLE_ARN")) {
        (Some(token_file), Some(role)) => return Ok(web_identity(token_file, role)),
        (Some(_), None) => return Err("AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not".into()),
        (None, _) => {}
    }
    let name = profile.name();
    match profile.source()? {
        Source::Keys { key_id, secret_key, token } => {
            let of_profile = |key: &str| format!("{key} of the profile {name:?}");
            check_plain(&of_profile("aws_access_key_id"), &key_id)?;
            check_plain(&of_profile("aws_secret_access_key"), &secret_key)?;
            check_plain(&of_profile("aws_session_token"), token.as_deref().unwrap_or_default())?;
            return Ok(keys(&key_id, &secret_key, token.as_deref()));
        }
        Source::WebIdentity { token_file, role } => return Ok(web_identity(&token_file, &role)),
        Source::Command(command) => {
            return Ok(builder.with_credentials(Arc::new(CommandCredentials::process(name, &command))));
        }
        Source::Tools(what) => {
            return Ok(builder.with_credentials(Arc::new(CommandCredentials::tools(name, what))));
        }
        Source::None => {}
    }
    if environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_some()
        && environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").is_none()
        && environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_none()
    {
        return Err(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI needs AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE; without it, \
                    set the keys with eval \"$(aws configure export-credentials --format env)\""
                .into(),
        );
    }
    Ok(builder)
}
