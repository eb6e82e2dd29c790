//! Writing to a bucket of the Hub by the Hub's own command, `hf`.
//!
//! The Hub takes no bytes over its HTTP interface: a file is cut into chunks by its contents, which go to a
//! content-addressed store beside it. The library that does so is not made for others, adds a hundred crates
//! and reports its use; its command is what people who have a token have installed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::{STORE, generic, not_supported};

/// What to do where there is no command that uploads.
const WAYS: &str = "to write to a Hub bucket with a token, install the Hub's command with `pip install -U \
                    huggingface_hub`; or set HF_S3_ACCESS_KEY_ID and HF_S3_SECRET_ACCESS_KEY to an S3 key pair \
                    from the token settings of the Hub";

/// Runs the command that uploads a file.
#[derive(Debug, Clone)]
pub(super) struct Uploader {
    endpoint: String,
    /// `NAMESPACE/NAME`.
    bucket: String,
    token: Token,
}

/// A token, which is not shown.
#[derive(Clone)]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Uploader {
    pub(super) fn new(endpoint: &str, bucket: &str, token: &str) -> Self {
        Self { endpoint: endpoint.into(), bucket: bucket.into(), token: Token(token.into()) }
    }

    /// Lets the file appear at `location`.
    pub(super) async fn upload(&self, file: StagedFile, location: &Path) -> Result<PutResult> {
        let target = format!("hf://buckets/{}/{location}", self.bucket);
        let mut command = Command::new("hf");
        command.args(["buckets", "cp", "--quiet"]).arg(file.0.path()).arg(&target);
        // Whatever of these the command would find out otherwise, it is what was found out here.
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_TOKEN", &self.token.0);
        command.env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|error| not_supported(format!("hf: {error}: {WAYS}")))?;
        if output.status.success() {
            return Ok(PutResult { e_tag: None, version: None, extensions: http::Extensions::default() });
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        Err(refused(&target, &format!("hf ended with {}: {}", output.status, last.trim())))
    }
}

/// The error of a command that failed: what no retry mends is told apart.
fn refused(path: &str, what: &str) -> Error {
    let (path, lower) = (path.to_owned(), what.to_ascii_lowercase());
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // Not by number: names of objects have digits.
    if has(&["unauthorized", "invalid user token"]) {
        Error::Unauthenticated { path, source: what.into() }
    } else if has(&["forbidden", "not found"]) {
        Error::PermissionDenied { path, source: what.into() }
    } else if has(&["no such command"]) {
        not_supported(format!("{what}: {WAYS}"))
    } else {
        Error::Generic { store: STORE, source: what.into() }
    }
}

/// An object in a temporary file, because the command takes no other input of any size.
#[derive(Debug)]
pub(super) struct StagedFile(NamedTempFile);

impl StagedFile {
    pub(super) fn create() -> Result<Self> {
        Ok(Self(NamedTempFile::new().map_err(generic)?))
    }

    /// Writes `payload` from the byte `offset` on.
    pub(super) async fn write(&self, offset: u64, payload: PutPayload) -> Result<()> {
        write_at(self.0.as_file().try_clone().map_err(generic)?, offset, payload).await
    }
}

async fn write_at(file: File, mut offset: u64, payload: PutPayload) -> Result<()> {
    let written = tokio::task::spawn_blocking(move || {
        for block in &payload {
            file.write_all_at(block, offset)?;
            offset = offset.saturating_add(block.len() as u64);
        }
        Ok(())
    });
    written.await?.map_err(|error: std::io::Error| generic(error))
}

fn ended() -> Error {
    Error::Generic { store: STORE, source: "the upload has ended".into() }
}

/// An object that comes in parts.
#[derive(Debug)]
pub(super) struct StagedUpload {
    uploader: Uploader,
    location: Path,
    /// None once it is uploaded or given up.
    file: Option<StagedFile>,
    bytes: u64,
}

impl StagedUpload {
    pub(super) fn begin(uploader: Uploader, location: Path) -> Result<Self> {
        Ok(Self { uploader, location, file: Some(StagedFile::create()?), bytes: 0 })
    }
}

#[async_trait]
impl MultipartUpload for StagedUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        // Parts are in the order of these calls, whenever their futures run.
        let offset = self.bytes;
        self.bytes = self.bytes.saturating_add(payload.content_length() as u64);
        let file = self.file.as_ref().ok_or_else(ended);
        let file = file.and_then(|file| file.0.as_file().try_clone().map_err(generic));
        Box::pin(async move { write_at(file?, offset, payload).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let file = self.file.take().ok_or_else(ended)?;
        self.uploader.upload(file, &self.location).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.file = None;
        Ok(())
    }
}
