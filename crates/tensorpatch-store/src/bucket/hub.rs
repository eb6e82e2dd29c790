//! A bucket of the Hugging Face Hub, by the Hub's own HTTP interface.
//!
//! Files are got from the address that browsers use, which answers with a redirect to a content network; the
//! listing and the sizes come from the API. Neither needs S3 keys: a token does, and a public bucket needs
//! none. Files are written by the Hub's command, and deleted by the API, with a token. No write there has a
//! condition, so this store takes none: a stream has a single publisher.

mod upload;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use http::{Method, StatusCode};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequestBody};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::path::Path;
use object_store::{
    ClientOptions, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    RetryConfig,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::requests::Requests;
use super::url::client::Connector;
use upload::{StagedFile, StagedUpload, Uploader};

/// Names the store in errors.
const STORE: &str = "Hub";
/// The files that one request deletes.
const DELETED_AT_ONCE: usize = 1000;

/// A bucket of the Hub.
#[derive(Clone)]
pub(crate) struct HubBucket {
    files: std::sync::Arc<HttpStore>,
    client: HttpClient,
    /// `NAMESPACE/NAME`.
    id: String,
    /// Where the API of this bucket begins.
    api: String,
    /// Who writes; nobody without a token.
    uploader: Option<Uploader>,
}

impl HubBucket {
    /// The bucket `id`, which is `NAMESPACE/NAME`, at an endpoint such as `https://huggingface.co`.
    pub(crate) fn new(
        endpoint: &str,
        id: &str,
        token: Option<&str>,
        options: ClientOptions,
        retry: RetryConfig,
        requests: &Requests,
    ) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/');
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(generic)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let options = options
            .with_default_headers(headers)
            .with_user_agent(HeaderValue::from_static(concat!("tensorpatch/", env!("CARGO_PKG_VERSION"))));
        let client = Connector::counting(requests).connect(&options)?;
        let files = HttpBuilder::new()
            .with_url(format!("{endpoint}/buckets/{id}/resolve"))
            .with_client_options(options)
            .with_http_connector(Connector::counting(requests))
            .with_retry(retry)
            .build()?;
        let api = format!("{endpoint}/api/buckets/{id}");
        let uploader = token.map(|token| Uploader::new(endpoint, id, token));
        Ok(Self { files: files.into(), client, id: id.into(), api, uploader })
    }

    /// Asks the API once; the answer, and the address of its next page.
    async fn ask(&self, method: Method, url: &str, body: Body) -> Result<(Bytes, Option<String>)> {
        let mut request = http::Request::builder().method(method).uri(url);
        if let Some(kind) = body.kind() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let request = request.body(HttpRequestBody::from(body.into_bytes())).map_err(generic)?;
        let response = self.client.execute(request).await.map_err(generic)?;
        let (head, body) = response.into_parts();
        let answer = body.bytes().await.map_err(generic)?;
        if !head.status.is_success() {
            return Err(self.refused(head.status, url.to_owned(), &answer));
        }
        let next = head.headers.get(LINK).and_then(|link| next_page(link.to_str().ok()?));
        Ok((answer, next))
    }

    /// Why an answer has no contents, and what to do about it.
    fn refused(&self, status: StatusCode, path: String, answer: &[u8]) -> Error {
        let advice = if self.uploader.is_some() {
            "the token that was found has no access to it, or there is no such bucket"
        } else {
            "there is no such bucket, or it is private: set HF_TOKEN, or run `hf auth login`"
        };
        let source = format!("{status} of {self}: {advice}").into();
        match status {
            StatusCode::NOT_FOUND => Error::NotFound { path, source },
            StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
            StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
            _ => {
                let said = String::from_utf8_lossy(answer);
                let source = format!("Server returned non-2xx status code: {status}: {said}").into();
                Error::Generic { store: STORE, source }
            }
        }
    }

    fn uploader(&self) -> Result<&Uploader> {
        self.uploader.as_ref().ok_or_else(|| Error::Unauthenticated {
            path: self.to_string(),
            source: "to write, set HF_TOKEN or run `hf auth login`".into(),
        })
    }

    /// Deletes files, all of them or as many as go.
    async fn delete_files(&self, locations: &[Path]) -> Result<()> {
        self.uploader()?;
        let mut lines = Vec::new();
        for location in locations {
            let line = serde_json::json!({ "type": "deleteFile", "path": location.as_ref() });
            serde_json::to_writer(&mut lines, &line).map_err(generic)?;
            lines.push(b'\n');
        }
        let (answer, _) = self.ask(Method::POST, &format!("{}/batch", self.api), Body::Lines(lines)).await?;
        let Outcome { failed } = serde_json::from_slice(&answer).map_err(generic)?;
        match failed.into_iter().next() {
            None => Ok(()),
            Some(Failed { path, error }) => {
                Err(Error::Generic { store: STORE, source: format!("{path} is not deleted: {error}").into() })
            }
        }
    }

    /// The size of a file; it costs one request.
    async fn size(&self, location: &Path) -> Result<ObjectMeta> {
        let body =
            serde_json::to_vec(&serde_json::json!({ "paths": [location.as_ref()] })).map_err(generic)?;
        let url = format!("{}/paths-info", self.api);
        let (answer, _) = self.ask(Method::POST, &url, Body::Json(body)).await?;
        let entries: Vec<Entry> = serde_json::from_slice(&answer).map_err(generic)?;
        let found = entries.into_iter().filter_map(Entry::into_file).find(|file| file.location == *location);
        found.ok_or_else(|| Error::NotFound { path: location.to_string(), source: "not listed".into() })
    }

    /// The pages of what lies below a prefix.
    fn pages(&self, prefix: Option<&Path>, recursive: bool) -> BoxStream<'static, Result<Vec<Entry>>> {
        let (bucket, is_whole) = (self.clone(), prefix.is_none_or(|prefix| prefix.as_ref().is_empty()));
        let below = match prefix {
            Some(prefix) if !is_whole => {
                format!("/{}", utf8_percent_encode(prefix.as_ref(), NON_ALPHANUMERIC))
            }
            _ => String::new(),
        };
        let first = format!("{}/tree{below}?recursive={recursive}", self.api);
        let pages = stream::try_unfold(Some(first), move |url| {
            let bucket = bucket.clone();
            async move {
                let Some(url) = url else { return Ok(None) };
                let (page, next) = match bucket.ask(Method::GET, &url, Body::None).await {
                    // A folder that is not there has no entries; a bucket that is not there is an error.
                    Err(Error::NotFound { .. }) if !is_whole => {
                        let whole = format!("{}/tree?recursive=false", bucket.api);
                        bucket.ask(Method::GET, &whole, Body::None).await?;
                        return Ok(None);
                    }
                    answer => answer?,
                };
                // The token goes with each page: never to another host.
                if let Some(next) = &next
                    && !next.starts_with(&format!("{}/tree", bucket.api))
                {
                    return Err(not_supported(format!("the next page is elsewhere: {next}")));
                }
                Ok(Some((serde_json::from_slice(&page).map_err(generic)?, next)))
            }
        });
        pages.boxed()
    }
}

impl fmt::Debug for HubBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for HubBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://buckets/{}", self.id)
    }
}

/// What a request to the API brings along.
enum Body {
    None,
    Json(Vec<u8>),
    /// A JSON document each line.
    Lines(Vec<u8>),
}

impl Body {
    fn kind(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Json(_) => Some("application/json"),
            Self::Lines(_) => Some("application/x-ndjson"),
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Json(bytes) | Self::Lines(bytes) => bytes,
        }
    }
}

/// What became of a batch.
#[derive(Debug, Deserialize)]
struct Outcome {
    #[serde(default)]
    failed: Vec<Failed>,
}

#[derive(Debug, Deserialize)]
struct Failed {
    path: String,
    error: String,
}

/// What the API lists; members that are not needed are passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    uploaded_at: Option<DateTime<Utc>>,
    #[serde(default)]
    mtime: Option<DateTime<Utc>>,
}

impl Entry {
    /// The file that it lists, if its name can be that of an object.
    fn into_file(self) -> Option<ObjectMeta> {
        let location = Path::parse(&self.path).ok().filter(|_| self.r#type == "file")?;
        let last_modified = self.uploaded_at.or(self.mtime).unwrap_or_default();
        Some(ObjectMeta { location, last_modified, size: self.size, e_tag: None, version: None })
    }

    fn folder(&self) -> Option<Path> {
        Path::parse(&self.path).ok().filter(|_| self.r#type == "directory")
    }
}

#[async_trait]
impl ObjectStore for HubBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode != PutMode::Overwrite {
            let what = "writes to a Hub bucket by its own interface have no conditions: a stream that has more \
                        than one publisher needs HF_S3_ACCESS_KEY_ID and HF_S3_SECRET_ACCESS_KEY, an S3 key \
                        pair from the token settings of the Hub";
            return Err(not_supported(what.into()));
        }
        let (uploader, file) = (self.uploader()?, StagedFile::create()?);
        file.write(0, payload).await?;
        uploader.upload(file, location).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(StagedUpload::begin(self.uploader()?.clone(), location.clone())?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            let meta = self.size(location).await?;
            let payload = GetResultPayload::Stream(stream::empty().boxed());
            let (range, attributes) = (0..meta.size, object_store::Attributes::default());
            return Ok(GetResult { payload, meta, range, attributes, extensions: options.extensions });
        }
        self.files.get_opts(location, options).await.map_err(|error| match error {
            Error::Unauthenticated { path, .. } => self.refused(StatusCode::UNAUTHORIZED, path, &[]),
            Error::PermissionDenied { path, .. } => self.refused(StatusCode::FORBIDDEN, path, &[]),
            error => error,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        locations
            .try_chunks(DELETED_AT_ONCE)
            .map_err(|error| error.1)
            .and_then(move |locations| {
                let bucket = bucket.clone();
                async move {
                    bucket.delete_files(&locations).await?;
                    Ok(stream::iter(locations.into_iter().map(Ok)))
                }
            })
            .try_flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.pages(Some(&prefix), true)
            .map_ok(|page| stream::iter(page.into_iter().filter_map(Entry::into_file).map(Ok)))
            .try_flatten()
            .try_filter(move |file| std::future::ready(file.location.prefix_matches(&prefix)))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let entries: Vec<Entry> = self.pages(prefix, false).try_concat().await?;
        let common_prefixes = entries.iter().filter_map(Entry::folder).collect();
        let objects = entries.into_iter().filter_map(Entry::into_file).collect();
        Ok(ListResult { common_prefixes, objects, extensions: http::Extensions::default() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_supported("files of a Hub bucket are not copied".into()))
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: STORE, source: Box::new(source) }
}

fn not_supported(what: String) -> Error {
    Error::NotSupported { source: what.into() }
}

/// The address of the relation `next` of a Link header.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|link| {
        let (url, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
        relation.contains("rel=\"next\"").then(|| url.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        let link = "<https://h/a?cursor=1>; rel=\"prev\", <https://h/a?cursor=3>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("https://h/a?cursor=3"));
        assert_eq!(next_page("<https://h/a>; rel=\"last\""), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
