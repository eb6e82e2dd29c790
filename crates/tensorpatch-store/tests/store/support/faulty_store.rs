//! A store for tests that fails as real ones do: before the effect, after it, slowly, with stale lists,
//! ignoring conditions.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// One request, before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// A put, whatever is there.
    Put(Path),
    /// A put if nothing is there.
    Create(Path),
    /// The start of a multipart upload.
    Multipart(Path),
    /// A part of a multipart upload.
    Part(Path),
    /// The end of a multipart upload, with which the object appears.
    Complete(Path),
    /// A get of an object or a range of it.
    Get(Path),
    /// A question for size and date.
    Head(Path),
    /// A list below a prefix.
    List(Path),
    /// A delete of one or more objects.
    Delete,
}

impl Call {
    /// Whether it is a put if nothing is there.
    pub(crate) fn is_create(&self) -> bool {
        matches!(self, Self::Create(_))
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It succeeds, or fails as the store below does.
    None,
    /// An error, and nothing has happened.
    BeforeEffect,
    /// It has happened, but the reply is an error.
    AfterEffect,
    /// A put that is said to have succeeded, and has not happened. Other requests are not affected.
    Swallowed,
    /// It takes its time.
    Slow(Duration),
    /// A list as it was at an earlier time: without what was put since. Other requests are not affected.
    Stale,
    /// A list with a name that no object can have. Other requests are not affected.
    Unlistable,
    /// A get that breaks off after some bytes.
    Broken(usize),
}

type Script = Box<dyn FnMut(&Call) -> Fault + Send>;

/// Wraps a store and asks a script what becomes of each request.
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Mutex<Script>>,
    ignore_conditions: AtomicBool,
    refuse_conditions: AtomicBool,
    after_next_create: Mutex<Option<Bytes>>,
    /// The list that a stale answer repeats, by prefix.
    last_lists: Mutex<std::collections::HashMap<String, Vec<ObjectMeta>>>,
}

impl FaultyStore {
    /// A store over `inner` whose requests each ask `script` for their fate.
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        script: impl FnMut(&Call) -> Fault + Send + 'static,
    ) -> Self {
        Self {
            inner,
            script: Arc::new(Mutex::new(Box::new(script))),
            ignore_conditions: AtomicBool::new(false),
            refuse_conditions: AtomicBool::new(false),
            after_next_create: Mutex::new(None),
            last_lists: Mutex::default(),
        }
    }

    /// From now on the store says that it does not know conditions.
    pub(crate) fn refuse_conditions(&self) {
        self.refuse_conditions.store(true, Ordering::SeqCst);
    }

    /// From now on creates overwrite.
    pub(crate) fn ignore_conditions(&self) {
        self.ignore_conditions.store(true, Ordering::SeqCst);
    }

    /// Right after the next create somebody else puts these bytes under its name.
    pub(crate) fn after_next_create(&self, bytes: Bytes) {
        *self.after_next_create.lock().unwrap() = Some(bytes);
    }

    async fn fault(&self, call: &Call) -> Result<Fault> {
        decide(&self.script, call).await
    }
}

async fn decide(script: &Mutex<Script>, call: &Call) -> Result<Fault> {
    let fault = (script.lock().unwrap())(call);
    match fault {
        Fault::BeforeEffect => Err(injected("before")),
        Fault::Slow(time) => {
            tokio::time::sleep(time).await;
            Ok(Fault::None)
        }
        fault => Ok(fault),
    }
}

/// A multipart upload whose parts and end ask the script for their fate.
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    script: Arc<Mutex<Script>>,
    location: Path,
}

impl fmt::Debug for FaultyUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyUpload({:?})", self.inner)
    }
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (call, script) = (Call::Part(self.location.clone()), Arc::clone(&self.script));
        let part = self.inner.put_part(data);
        async move {
            let fault = decide(&script, &call).await?;
            part.await?;
            finish(fault, ())
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = decide(&self.script, &Call::Complete(self.location.clone())).await?;
        let result = self.inner.complete().await?;
        finish(fault, result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

fn injected(when: &str) -> Error {
    Error::Generic { store: "faulty", source: format!("injected {when} the effect").into() }
}

fn finish<T>(fault: Fault, value: T) -> Result<T> {
    if fault == Fault::AfterEffect { Err(injected("after")) } else { Ok(value) }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({:?})", self.inner)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        let create = opts.mode == PutMode::Create;
        if create && self.refuse_conditions.load(Ordering::SeqCst) {
            return Err(Error::NotImplemented { operation: "create".into(), implementer: "faulty".into() });
        }
        let call = if create { Call::Create(location.clone()) } else { Call::Put(location.clone()) };
        let fault = self.fault(&call).await?;
        if fault == Fault::Swallowed {
            return Ok(PutResult { e_tag: None, version: None, extensions: Default::default() });
        }
        if create && self.ignore_conditions.load(Ordering::SeqCst) {
            opts.mode = PutMode::Overwrite;
        }
        let result = self.inner.put_opts(location, payload, opts).await?;
        let after = if create { self.after_next_create.lock().unwrap().take() } else { None };
        if let Some(bytes) = after {
            self.inner.put(location, bytes.into()).await?;
        }
        finish(fault, result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.fault(&Call::Multipart(location.clone())).await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let (script, location) = (Arc::clone(&self.script), location.clone());
        finish(fault, Box::new(FaultyUpload { inner, script, location }) as Box<dyn MultipartUpload>)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let call = if options.head { Call::Head(location.clone()) } else { Call::Get(location.clone()) };
        let fault = self.fault(&call).await?;
        let mut result = self.inner.get_opts(location, options).await?;
        if let Fault::Broken(after) = fault {
            let (meta, range, attributes, extensions) = (
                result.meta.clone(),
                result.range.clone(),
                result.attributes.clone(),
                result.extensions.clone(),
            );
            let bytes = result.bytes().await?;
            let kept = bytes.slice(..after.min(bytes.len()));
            let broken = futures::stream::iter([Ok(kept), Err(injected("in the middle of"))]).boxed();
            result = GetResult {
                payload: object_store::GetResultPayload::Stream(broken),
                meta,
                range,
                attributes,
                extensions,
            };
        }
        finish(fault, result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let fault = self.fault(&Call::Get(location.clone())).await?;
        let result = self.inner.get_ranges(location, ranges).await?;
        finish(fault, result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Decided when the stream is made: every location of it shares the fate.
        let fault = (self.script.lock().unwrap())(&Call::Delete);
        match fault {
            Fault::BeforeEffect => futures::stream::once(async { Err(injected("before")) }).boxed(),
            Fault::AfterEffect => self
                .inner
                .delete_stream(locations)
                .map(|result| result.and_then(|_| Err(injected("after"))))
                .boxed(),
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let fault = (self.script.lock().unwrap())(&Call::List(prefix.clone()));
        if matches!(fault, Fault::BeforeEffect | Fault::AfterEffect) {
            return futures::stream::once(async { Err(injected("before")) }).boxed();
        }
        if fault == Fault::Unlistable {
            let source = Path::parse("commits//x").unwrap_err();
            return futures::stream::once(async { Err(Error::InvalidPath { source }) }).boxed();
        }
        let fresh: Result<Vec<ObjectMeta>> =
            futures::executor::block_on(self.inner.list(Some(&prefix)).try_collect());
        let mut lists = self.last_lists.lock().unwrap();
        let answer = match (fault, lists.get(prefix.as_ref())) {
            (Fault::Stale, Some(stale)) => Ok(stale.clone()),
            (Fault::Stale, None) => Ok(Vec::new()),
            _ => fresh,
        };
        if let (Ok(list), true) = (&answer, fault != Fault::Stale) {
            lists.insert(prefix.to_string(), list.clone());
        }
        match answer {
            Ok(list) => futures::stream::iter(list.into_iter().map(Ok)).boxed(),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
