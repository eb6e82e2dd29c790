//! Answers of a server, in memory only as far as they may be long. The client reads lists and errors whole,
//! and a server may send them without end.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

/// A page of a list has at most 5000 names of at most 1024 bytes, each with a few hundred bytes of XML around
/// it.
const MAX_ANSWER: usize = 16 << 20;
/// People read the beginning of an error.
const MAX_ERROR: usize = 64 << 10;

/// A client whose answers are bounded, but for the objects that it gets: whoever reads those bounds them.
pub(super) fn bounded(client: HttpClient) -> HttpClient {
    HttpClient::new(BoundedService(client))
}

#[derive(Debug)]
struct BoundedService(HttpClient);

#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {MAX_ANSWER} bytes")]
struct TooLong;

#[async_trait::async_trait]
impl HttpService for BoundedService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_object =
            request.method().as_str() == "GET" && !is_list(request.uri().query().unwrap_or_default());
        let (parts, body) = self.0.execute(request).await?.into_parts();
        let body = if !parts.status.is_success() {
            read(body, MAX_ERROR).await?.0.into()
        } else if is_object {
            body
        } else {
            match read(body, MAX_ANSWER).await? {
                (bytes, true) => bytes.into(),
                (_, false) => return Err(HttpError::new(HttpErrorKind::Decode, TooLong)),
            }
        };
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// Whether a query asks for a list, of S3, Google, Azure or the Hub.
fn is_list(query: &str) -> bool {
    query.split('&').any(|parameter| {
        ["list-type=", "recursive="].iter().any(|name| parameter.starts_with(name))
            || parameter == "comp=list"
    })
}

/// The beginning of a body, and whether that is all of it.
async fn read(body: HttpResponseBody, most: usize) -> Result<(Bytes, bool), HttpError> {
    let mut blocks = body.bytes_stream();
    let mut bytes = BytesMut::new();
    while let Some(block) = blocks.next().await {
        let block = block?;
        let room = most.saturating_sub(bytes.len());
        bytes.extend_from_slice(block.get(..room).unwrap_or(&block));
        if block.len() > room {
            return Ok((bytes.freeze(), false));
        }
    }
    Ok((bytes.freeze(), true))
}
