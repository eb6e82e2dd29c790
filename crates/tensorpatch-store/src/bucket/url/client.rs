//! The HTTP client of a bucket, watched: which failures are worth a retry, and what is said about them.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{ClientOptions, Result};

use super::bounded::bounded;
use crate::bucket::requests::Requests;
use crate::cause::{NO_CREDENTIALS, WRONG_REGION};

/// How long a store may fail before a word is said about it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a service on the machine itself, or on its link, may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
/// Where clouds tell a machine its credentials.
const METADATA_HOSTS: [&str; 4] =
    ["169.254.169.254", "169.254.170.2", "[fd00:ec2::254]", "metadata.google.internal"];

/// Makes clients that fail at once where a retry is of no use, and say so where one goes on for long.
#[derive(Debug, Default)]
pub(in crate::bucket) struct Connector {
    /// A metadata service that the environment names.
    pub(super) metadata_endpoint: Option<String>,
    /// Whether metadata services are not to be asked.
    pub(super) no_metadata: bool,
    /// Counts the attempts that fail.
    pub(super) requests: Requests,
}

impl Connector {
    /// One that knows of no metadata service of its own.
    pub(in crate::bucket) fn counting(requests: &Requests) -> Self {
        Self { requests: requests.clone(), ..Self::default() }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = bounded(ReqwestConnector::default().connect(options)?);
        let metadata_endpoint = self.metadata_endpoint.clone();
        let no_metadata = self.no_metadata;
        let (requests, trouble) = (self.requests.clone(), Mutex::default());
        Ok(HttpClient::new(Watched { client, metadata_endpoint, no_metadata, requests, trouble }))
    }
}

#[derive(Debug)]
struct Watched {
    client: HttpClient,
    metadata_endpoint: Option<String>,
    no_metadata: bool,
    requests: Requests,
    trouble: Mutex<Option<Trouble>>,
}

/// Failures without a success between them.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    told: bool,
}

/// A failure that no retry mends.
#[derive(Debug)]
struct Final(String);

impl fmt::Display for Final {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Final {}

fn fail(what: String) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Final(what))
}

impl Watched {
    fn is_metadata(&self, request: &HttpRequest) -> bool {
        let uri = request.uri();
        uri.host().is_some_and(|host| METADATA_HOSTS.contains(&host))
            || self.metadata_endpoint.as_deref().is_some_and(|endpoint| {
                let endpoint = endpoint.trim_end_matches('/');
                uri.to_string().strip_prefix(endpoint).is_some_and(|rest| rest.starts_with('/'))
            })
    }

    /// Asks a service for credentials, once and not for long: it is there or not.
    async fn ask_metadata(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        if self.no_metadata {
            return Err(fail(format!("{NO_CREDENTIALS}: AWS_EC2_METADATA_DISABLED is set")));
        }
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = tokio::time::timeout(METADATA_TIMEOUT, self.client.execute(request)).await;
        match answer {
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => {
                let status = response.status();
                Err(fail(format!("{NO_CREDENTIALS}: no keys, no profile, and {host} says {status}")))
            }
            Ok(Err(_)) | Err(_) => {
                Err(fail(format!("{NO_CREDENTIALS}: no keys, no profile, and {host} does not answer")))
            }
        }
    }

    /// Counts a failure that may pass, and says once that the store fails, when that goes on.
    fn failed(&self, host: &str, why: &str) {
        self.requests.fail();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = trouble.get_or_insert_with(|| Trouble { since: Instant::now(), told: false });
        if !trouble.told && trouble.since.elapsed() > PATIENCE {
            trouble.told = true;
            tracing::warn!("{host} {why}: trying again");
        }
    }

    fn succeeded(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[async_trait]
impl HttpService for Watched {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        if self.is_metadata(&request) {
            return self.ask_metadata(request).await;
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let host = request.uri().host().unwrap_or_default().to_owned();
        let begun = Instant::now();
        let answer = self.client.execute(request).await;
        let ms = begun.elapsed().as_millis();
        match answer {
            Ok(response) => {
                let status = response.status();
                tracing::debug!("{method} {path}: {} in {ms} ms", status.as_u16());
                judge(response, &mut |why| self.failed(&host, why), &mut || self.succeeded()).await
            }
            Err(error) => {
                let text = all_of(&error);
                tracing::debug!("{method} {path}: failed in {ms} ms: {text}");
                if is_final(&text) {
                    return Err(fail(text));
                }
                self.failed(&host, "does not answer");
                Err(error)
            }
        }
    }
}

/// Hands on an answer, unless it is one that the client would try again for no good, or whose reason would be
/// lost.
async fn judge(
    response: HttpResponse,
    failed: &mut (dyn FnMut(&str) + Send),
    succeeded: &mut (dyn FnMut() + Send),
) -> std::result::Result<HttpResponse, HttpError> {
    let status = response.status();
    if status.is_redirection()
        && let Some(region) = response.headers().get("x-amz-bucket-region")
    {
        let region = String::from_utf8_lossy(region.as_bytes()).into_owned();
        return Err(fail(format!("{WRONG_REGION} {region}")));
    }
    if matches!(status.as_u16(), 501 | 505 | 507 | 511) {
        let body = response.into_body().bytes().await.unwrap_or_default();
        let body = String::from_utf8_lossy(&body);
        return Err(fail(format!("Server returned non-2xx status code: {status}: {body}")));
    }
    if status.is_server_error() || status.as_u16() == 429 {
        failed(&format!("answers with {status}"));
    } else {
        succeeded();
    }
    Ok(response)
}

/// Whether connecting again would end the same.
fn is_final(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    ["certificate", "unknownissuer", "invalidcontenttype", "corrupt message", "proxy authorization required"]
        .iter()
        .any(|word| lower.contains(word))
}

fn all_of(error: &HttpError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}
