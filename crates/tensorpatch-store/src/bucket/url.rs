//! From a URL to a store and the prefix in it.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod bounded;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
pub(super) mod client;
#[cfg(feature = "aws")]
mod command;
mod directory;
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
mod environment;
mod file;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "aws")]
mod profile;
mod staged;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use tensorpatch_stream::names;

use super::requests::Requests;
use crate::error::StoreError;
use crate::local::{blocking, missing_dirs, remove_empty_dirs};
use crate::settings::Policy;
use directory::Directory;

/// Opens the store that `url` names and says which prefix of it is meant. A bucket's client takes its
/// timeouts, retries and number of connections from `policy`.
///
/// | URL | store | credentials |
/// |---|---|---|
/// | a path, `file:///PATH` | a local directory, made if it is missing; writes are synced | |
/// | `s3://BUCKET/PREFIX` | S3, or what the endpoint of the AWS tools names (feature `aws`) | `AWS_…` variables, a profile (single sign-on and roles by way of the AWS command line), a token file, a container or instance role |
/// | `hf://buckets/NAMESPACE/BUCKET/PREFIX` | a bucket of the Hugging Face Hub (feature `hub`): through its S3 gateway with keys, else by its own interface, where a stream has a single publisher | `HF_S3_ACCESS_KEY_ID` and `HF_S3_SECRET_ACCESS_KEY`; else `HF_TOKEN`, or what `hf auth login` stored, with the `hf` command for writing; for reading none if it is public |
/// | `gs://BUCKET/PREFIX` | Google Cloud Storage (feature `gcp`) | `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_…` variables, a role |
/// | `az://CONTAINER/PREFIX` | Azure Blob Storage (feature `azure`) | `AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_…` variables |
///
/// # Errors
/// If the URL is of no kind that this build knows, is malformed, or the store cannot be set up.
///
/// ```
/// use tensorpatch_store::{Policy, open_store};
///
/// let dir = tempfile::tempdir()?;
/// let url = dir.path().join("stream");
/// let (store, prefix) = open_store(&url.to_string_lossy(), &Policy::default())?;
/// assert_eq!(prefix.as_ref(), "");
/// # let _ = store;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open_store(url: &str, policy: &Policy) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    open_for_writing(url, policy).map(Opened::into_store)
}

/// The same for reading: a local directory that is missing is not made.
///
/// # Errors
/// As [`open_store`]; [`StoreError::NoStream`] if there is no such directory.
pub fn open_existing_store(url: &str, policy: &Policy) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    open_for_reading(url, policy).map(Opened::into_store)
}

/// A store that was opened, and the prefix that is meant.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// Whether no write has a condition there, so that a stream that is created has a single publisher.
    pub(crate) single_writer: bool,
    /// Counts what its client tries again.
    pub(crate) requests: Requests,
    /// The URL as it may be shown, for a bucket.
    pub(crate) url: Option<Arc<str>>,
}

impl From<(Arc<dyn ObjectStore>, Path)> for Opened {
    fn from((store, prefix): (Arc<dyn ObjectStore>, Path)) -> Self {
        Self { store, prefix, single_writer: false, requests: Requests::default(), url: None }
    }
}

impl Opened {
    fn into_store(self) -> (Arc<dyn ObjectStore>, Path) {
        (self.store, self.prefix)
    }
}

/// As [`open_existing_store`], with what is known about the store beforehand.
pub(crate) fn open_for_reading(url: &str, policy: &Policy) -> Result<Opened, StoreError> {
    open(url, policy, |directory| {
        if directory.is_dir() {
            return Ok(());
        }
        Err(StoreError::NoStream { place: directory.display().to_string() })
    })
}

/// As [`open_store`], with what is known about the store beforehand.
pub(crate) fn open_for_writing(url: &str, policy: &Policy) -> Result<Opened, StoreError> {
    open(url, policy, crate::local::create_dir)
}

fn open(
    url: &str,
    #[cfg_attr(
        not(any(feature = "aws", feature = "gcp", feature = "azure")),
        expect(unused_variables, reason = "local directories have no client")
    )]
    policy: &Policy,
    prepare: impl Fn(&FilePath) -> Result<(), StoreError>,
) -> Result<Opened, StoreError> {
    let open_directory = |path: &FilePath| {
        prepare(path)?;
        open_directory(path)
    };
    if let Some(path) = directory(url)? {
        return open_directory(&path);
    }
    #[cfg_attr(
        not(any(feature = "aws", feature = "azure", feature = "gcp", feature = "hub")),
        allow(unused_variables, reason = "only buckets have more to say")
    )]
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let requests = Requests::default();
    let opened: Result<Opened, StoreError> = match scheme {
        #[cfg(feature = "aws")]
        "s3" => aws::open(url, rest, policy, &requests).map(Opened::from),
        #[cfg(feature = "hub")]
        "hf" => hub::open(url, rest, policy, &requests),
        #[cfg(feature = "gcp")]
        "gs" => gcp::open(url, rest, policy, &requests).map(Opened::from),
        #[cfg(feature = "azure")]
        "az" => azure::open(url, rest, policy, &requests).map(Opened::from),
        kind => Err(bad(
            url,
            match kind {
                "s3" => "this build has no support for it: enable the feature \"aws\"",
                "hf" => "this build has no support for it: enable the feature \"hub\"",
                "gs" => "this build has no support for it: enable the feature \"gcp\"",
                "az" => "this build has no support for it: enable the feature \"azure\"",
                _ => "the kinds of stores are file, s3, gs, az and hf",
            },
        )),
    };
    let shown = without_secrets(url);
    opened.map(|opened| Opened { url: Some(shown.trim_end_matches('/').into()), requests, ..opened })
}

/// Does what may begin a stream at a URL. Where it fails, no directory is left that was not there before.
pub(crate) async fn leaving_no_directory<T>(
    url: &str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let probes = directory(url)?.map(|directory| directory.join(names::PROBE));
    let made = probes.as_deref().map(missing_dirs).unwrap_or_default();
    let done = work.await;
    if done.is_err() {
        blocking(move || {
            remove_empty_dirs(&made);
            Ok(())
        })
        .await?;
    }
    done
}

/// The local directory that a URL names, if it names one.
pub(crate) fn directory(url: &str) -> Result<Option<PathBuf>, StoreError> {
    let path = match url.split_once("://") {
        None => file::path(url).map(FilePath::to_owned),
        Some(("file", rest)) => file::decode(rest),
        Some(_) => return Ok(None),
    };
    path.map(Some).map_err(|what| bad(url, what))
}

fn bad(url: &str, what: impl Into<String>) -> StoreError {
    StoreError::Url { url: without_secrets(url), what: what.into() }
}

/// A URL as it may be shown: without a password before its server, and without its query, where signatures
/// are.
fn without_secrets(url: &str) -> String {
    let (shown, query) = match url.find(['?', '#']) {
        Some(at) => (url.get(..at).unwrap_or_default(), "?..."),
        None => (url, ""),
    };
    let scheme = shown.find(':').map_or(0, |at| {
        let slashes = shown.bytes().skip(at).skip(1).take_while(|byte| *byte == b'/').count();
        at.saturating_add(1).saturating_add(slashes)
    });
    let (scheme, rest) = shown.split_at(scheme);
    let (server, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    match server.rsplit_once('@') {
        Some((_, server)) => format!("{scheme}...@{server}{path}{query}"),
        None => format!("{shown}{query}"),
    }
}

fn open_directory(path: &FilePath) -> Result<Opened, StoreError> {
    let failed = |source| StoreError::Object { name: path.display().to_string(), source };
    let store: Arc<dyn ObjectStore> = Arc::new(Directory::open(path).map_err(failed)?);
    Ok((store, Path::default()).into())
}

/// The bucket or container, and the prefix in it.
#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
fn bucket_and_prefix<'a>(url: &str, rest: &'a str) -> Result<(&'a str, Path), StoreError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(bad(url, "it names no bucket"));
    }
    // `$` is that of Azure's containers $root and $web.
    if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._$".contains(&byte)) {
        return Err(bad(url, "its bucket has a character that no bucket's name has"));
    }
    if prefix.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(bad(url, "its prefix has a part . or .., which a bucket does not resolve"));
    }
    let prefix = Path::parse(prefix.trim_matches('/')).map_err(|e| bad(url, e.to_string()))?;
    Ok((bucket, prefix))
}

#[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
fn set_up<T: ObjectStore>(
    url: &str,
    store: object_store::Result<T>,
    policy: &Policy,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let store = store.map_err(|e| bad(url, e.to_string()))?;
    Ok(Arc::new(object_store::limit::LimitStore::new(store, policy.transfers.max_connections)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_no_store_are_refused() {
        let mut urls = vec!["", "file://relative/path", "carrier-pigeon://roof", "s3://", "hf://models/a/b"];
        urls.extend([
            "s3:/bucket/run",
            "s3:bucket/run",
            "gpu1:/data/run",
            "s3://bad bucket/x",
            "file:///a%zz",
        ]);
        urls.extend([
            "s3://bucket/../b",
            "s3://bucket/a//b",
            "gs://",
            "az:///x",
            "hf://buckets/only-a-namespace",
        ]);
        for url in urls {
            assert!(matches!(open_store(url, &Policy::default()), Err(StoreError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn passwords_and_signatures_in_urls_are_not_shown() {
        for (url, shown) in [
            ("s3://user:secret@bucket/run", "s3://...@bucket/run"),
            ("s3:/user:secret@bucket/run", "s3:/...@bucket/run"),
            ("https://host/c/run?sv=1&sig=secret", "https://host/c/run?..."),
            ("https://user:secret@host?sig=secret#secret", "https://...@host?..."),
            ("gs://bucket/a@b", "gs://bucket/a@b"),
            ("runs/7", "runs/7"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn a_file_url_and_a_path_name_the_same_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b/stream");
        let path = path.to_str().unwrap();
        for url in [path.to_owned(), format!("file://{path}")] {
            let (store, _) = open_store(&url, &Policy::default()).unwrap();
            assert!(store.to_string().contains("stream"), "{store}");
            let below = crate::bucket::Bucket::new(store, "runs/7".into()).directory();
            assert_eq!(below.unwrap(), std::fs::canonicalize(path).unwrap().join("runs/7"));
        }
    }

    #[cfg(any(feature = "aws", feature = "gcp", feature = "azure"))]
    #[test]
    fn a_url_is_split_into_bucket_and_prefix() {
        let (bucket, prefix) = bucket_and_prefix("", "bucket/runs/7/").unwrap();
        assert_eq!((bucket, prefix.as_ref()), ("bucket", "runs/7"));
        let (bucket, prefix) = bucket_and_prefix("", "bucket").unwrap();
        assert_eq!((bucket, prefix.as_ref()), ("bucket", ""));
    }

    #[cfg(feature = "aws")]
    #[test]
    fn a_bucket_is_called_by_its_url() {
        let opened = open_for_reading("s3://bucket/runs/7/", &Policy::default()).unwrap();
        let bucket = crate::bucket::Bucket::of(opened);
        assert_eq!(bucket.place(), "s3://bucket/runs/7");
        assert_eq!(bucket.settled_place(), Some(bucket.place()));
    }

    #[test]
    fn a_directory_is_made_for_writing_and_not_for_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stream");
        let (path_text, policy) = (path.to_str().unwrap(), Policy::default());
        assert!(matches!(open_existing_store(path_text, &policy), Err(StoreError::NoStream { .. })));
        assert!(!path.exists());
        open_store(path_text, &policy).unwrap();
        open_existing_store(path_text, &policy).unwrap();
    }
}
