//! A bucket of the Hugging Face Hub, read by the Hub's own HTTP interface.
//!
//! Files are got from the address that browsers use, which answers with a redirect to a content network; the
//! listing and the sizes come from the API. Neither needs S3 keys: a token does, and a public bucket needs
//! none. Uploads go another way there, without conditions, so this store takes none.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use http::{Method, StatusCode};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequestBody, ReqwestConnector};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::path::Path;
use object_store::{
    ClientOptions, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, RetryConfig,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// The most bytes of one answer of the API: a page lists a thousand files.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Names the store in errors.
const STORE: &str = "Hub";

/// A bucket of the Hub, for reading.
#[derive(Clone)]
pub(crate) struct HubBucket {
    files: std::sync::Arc<HttpStore>,
    client: HttpClient,
    /// `NAMESPACE/NAME`.
    id: String,
    /// Where the API of this bucket begins.
    api: String,
    has_token: bool,
}

impl HubBucket {
    /// The bucket `id`, which is `NAMESPACE/NAME`, at an endpoint such as `https://huggingface.co`.
    pub(crate) fn new(
        endpoint: &str,
        id: &str,
        token: Option<&str>,
        options: ClientOptions,
        retry: RetryConfig,
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
        let client = ReqwestConnector::default().connect(&options)?;
        let files = HttpBuilder::new()
            .with_url(format!("{endpoint}/buckets/{id}/resolve"))
            .with_client_options(options)
            .with_retry(retry)
            .build()?;
        let api = format!("{endpoint}/api/buckets/{id}");
        Ok(Self { files: files.into(), client, id: id.into(), api, has_token: token.is_some() })
    }

    /// Asks the API; the answer, and the address of its next page.
    async fn ask(&self, method: Method, url: &str, body: Vec<u8>) -> Result<(Bytes, Option<String>)> {
        let mut request = http::Request::builder().method(method).uri(url);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(HttpRequestBody::from(body)).map_err(generic)?;
        let response = self.client.execute(request).await.map_err(generic)?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(self.refused(head.status, url.to_owned()));
        }
        let next = head.headers.get(LINK).and_then(|link| next_page(link.to_str().ok()?));
        let mut answer = Vec::new();
        let mut pieces = body.bytes_stream();
        while let Some(piece) = pieces.try_next().await.map_err(generic)? {
            if answer.len().saturating_add(piece.len()) > MAX_ANSWER_BYTES {
                return Err(not_supported(format!("an answer of more than {MAX_ANSWER_BYTES} bytes: {url}")));
            }
            answer.extend_from_slice(&piece);
        }
        Ok((answer.into(), next))
    }

    /// Why an answer has no contents, and what to do about it.
    fn refused(&self, status: StatusCode, path: String) -> Error {
        let advice = if self.has_token {
            "the token that was found has no access to it, or there is no such bucket"
        } else {
            "there is no such bucket, or it is private: set HF_TOKEN, or run `hf auth login`"
        };
        let source = format!("{status} of {self}: {advice}").into();
        match status {
            StatusCode::NOT_FOUND => Error::NotFound { path, source },
            StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
            StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
            _ => Error::Generic { store: STORE, source: status.to_string().into() },
        }
    }

    /// The size of a file; it costs one request.
    async fn size(&self, location: &Path) -> Result<ObjectMeta> {
        let body =
            serde_json::to_vec(&serde_json::json!({ "paths": [location.as_ref()] })).map_err(generic)?;
        let (answer, _) = self.ask(Method::POST, &format!("{}/paths-info", self.api), body).await?;
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
                let (page, next) = match bucket.ask(Method::GET, &url, Vec::new()).await {
                    // A folder that is not there has no entries; a bucket that is not there is an error.
                    Err(Error::NotFound { .. }) if !is_whole => {
                        bucket.ask(Method::GET, &bucket.api, Vec::new()).await?;
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
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(for_reading())
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(for_reading())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            let meta = self.size(location).await?;
            let payload = GetResultPayload::Stream(stream::empty().boxed());
            let (range, attributes) = (0..meta.size, object_store::Attributes::default());
            return Ok(GetResult { payload, meta, range, attributes, extensions: options.extensions });
        }
        self.files.get_opts(location, options).await.map_err(|error| match error {
            Error::Unauthenticated { path, .. } => self.refused(StatusCode::UNAUTHORIZED, path),
            Error::PermissionDenied { path, .. } => self.refused(StatusCode::FORBIDDEN, path),
            error => error,
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        locations.map(|_| Err(for_reading())).boxed()
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
        Err(for_reading())
    }
}

fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: STORE, source: Box::new(source) }
}

fn not_supported(what: String) -> Error {
    Error::NotSupported { source: what.into() }
}

/// Why nothing is written.
fn for_reading() -> Error {
    not_supported(
        "a Hub bucket is only read with a token; to write, set HF_S3_ACCESS_KEY_ID and \
         HF_S3_SECRET_ACCESS_KEY to an S3 key pair from the token settings of the Hub"
            .into(),
    )
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
