//! Publishing tensors from memory, one at a time.

use std::ffi::OsStr;
use std::path::Path;

use tensorpatch_checkpoint::{is_companion_name, open_regular};
use tensorpatch_delta::safetensors::View;
use tensorpatch_delta::{Cancelled, DiffError, Others, Progress, TensorDiff};
use tensorpatch_stream::names::check_distinct;
use tensorpatch_stream::record::check_texts;
use tensorpatch_stream::{Commit, Nonce};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::known::Known;
use super::local::{Companion, copy_companion, write_companion};
use super::memory::{finish_and_check, stage_tensors, verify_baseline};
use super::survey::is_writable_everywhere;
use super::{Published, Publisher};
use crate::error::StoreError;
use crate::local::blocking;
use crate::observe::{Observer, Phase};
use crate::replica::directory::ReplicaDir;

/// The next version of a stream, fed with tensors from memory one at a time and in any order.
///
/// [`Publisher::feed`] begins it, [`TensorFeed::finish`] publishes it. Each tensor is compared with the
/// memory-mapped baseline while it is alive, so this takes the memory of one tensor, and of at most 32 MiB of
/// changes: more of them go to a temporary file in the baseline's directory. The patch is byte for byte the
/// one that [`Publisher::publish`] makes of files with the same state. What these files look like: those of
/// the version before while it has the same tensors, else the one `model.safetensors` that
/// `safetensors::serialize` makes of the state with the metadata `{"format": "pt"}`.
///
/// Dropping it publishes nothing. While it exists it keeps the publisher and the baseline locked: every other
/// call waits for it, and must not come from the task that holds it.
#[derive(Debug)]
pub struct TensorFeed {
    diff: TensorDiff<'static>,
    observer: Observer,
    /// Whether a tensor was refused. Without it the version would not be what its publisher takes it for.
    refused: bool,
    next: NextVersion,
}

/// What becomes of the tensors.
#[derive(Debug)]
struct NextVersion {
    publisher: Publisher,
    known: OwnedMutexGuard<Known>,
    directory: ReplicaDir,
    tip: Option<Commit>,
    label: Option<String>,
    others: Others,
    /// Those of the version before, if none are given.
    companions: Option<Vec<Companion>>,
}

impl Publisher {
    /// Publishes a whole state from memory: an iterator of names and tensors, in any order.
    ///
    /// The iterator runs on a thread that may block, and makes one tensor at a time. The files beside the
    /// weights stay as they were. [`Publisher::feed`] is for everything else: tensors that only borrow their
    /// bytes, or that must be made on one thread; some of the tensors; positions and values; labels; files
    /// beside the weights; iterators that can fail.
    ///
    /// # Errors
    /// As [`Publisher::feed`] and [`TensorFeed::finish`].
    ///
    /// # Cancel safety
    /// As [`Publisher::publish`]. The iterator is dropped after the tensor at hand.
    ///
    /// ```
    /// use tensorpatch_delta::safetensors::{Dtype, tensor::TensorView};
    /// use tensorpatch_store::Publisher;
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = |name: &str| dir.path().join(name);
    /// # let (bucket, baseline) = (path("bucket"), path("baseline"));
    /// # let url = bucket.to_str().ok_or("not UTF-8")?;
    ///
    /// let publisher = Publisher::builder(url).baseline(baseline).open().await?;
    ///
    /// let weight = TensorView::new(Dtype::BF16, vec![2], &[1, 2, 3, 4])?;
    /// publisher.publish_tensors([("w", weight)]).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn publish_tensors<N, V, I>(&self, tensors: I) -> Result<Published, StoreError>
    where
        N: AsRef<str>,
        V: View,
        I: IntoIterator<Item = (N, V)> + Send + 'static,
    {
        let feed = self.feed(None).await?;
        let feed = feed.fill(|| tensors.into_iter().map(Ok::<_, StoreError>)).await?;
        feed.finish().await
    }

    /// Begins the next version, to be fed with tensors from memory.
    ///
    /// The baseline is verified first, and restored from the stream if it is damaged: tensors can be had only
    /// once. `label` means what it does in [`Publisher::publish_labelled`].
    ///
    /// # Errors
    /// [`StoreError::NotAtTip`] if another publisher was there first: then [`Publisher::catch_up`]. Otherwise
    /// if the label is not one, or the baseline cannot be brought to the tip.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time.
    ///
    /// ```
    /// use tensorpatch_delta::{Others, safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView}};
    /// # use tensorpatch_store::Publisher;
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = |name: &str| dir.path().join(name);
    /// # let bucket = path("bucket");
    /// # let url = bucket.to_str().ok_or("not UTF-8")?;
    /// # let publisher = Publisher::builder(url).baseline(path("baseline")).open().await?;
    /// # let tensor = |bytes| TensorView::new(Dtype::BF16, vec![2], bytes);
    /// # let buffer = serialize([("a", tensor(&[1, 2, 3, 4])?), ("b", tensor(&[5, 6, 7, 8])?)], None)?;
    ///
    /// // A whole state.
    /// let mut feed = publisher.feed(Some("step 1")).await?;
    /// for (name, tensor) in SafeTensors::deserialize(&buffer)?.iter() {
    ///     feed.add(name, &tensor)?;
    /// }
    /// feed.add_companion("config.json", b"{}")?;
    /// feed.finish().await?;
    ///
    /// // Element 1 of a tensor has another value, everything else stays.
    /// let mut feed = publisher.feed(Some("step 2")).await?.with_others(Others::Kept);
    /// feed.add_changes("a", &[1], &[9, 9])?;
    /// let published = feed.finish().await?;
    /// assert_eq!(published.changed_elements, Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn feed(&self, label: Option<&str>) -> Result<TensorFeed, StoreError> {
        check_texts(&self.options.publisher, label).map_err(StoreError::Text)?;
        if self.options.base.is_some() {
            let what = "they are compared with the baseline, and this publisher keeps none (its options have a base)";
            return Err(StoreError::Tensors(what.into()));
        }
        let (directory, mut known) = self.lock().await?;
        let tip = self.to_tip_if_own(&directory, &mut known).await?;
        let diff = match &tip {
            None => self.begin(&directory, None).await?,
            Some(tip) => match self.begin(&directory, Some(tip)).await {
                // The baseline was damaged on disk, and now says so: it is restored from the stream.
                Err(StoreError::WrongState { .. } | StoreError::LocalDamage { .. }) => {
                    self.to_tip(&directory).await?;
                    self.begin(&directory, Some(tip)).await?
                }
                begun => begun?,
            },
        };
        let (observer, label) = (self.options.observer.clone(), label.map(str::to_owned));
        let (others, companions) = (Others::default(), None);
        let publisher = self.clone();
        let next = NextVersion { publisher, known, directory, tip, label, others, companions };
        Ok(TensorFeed { diff, observer, refused: false, next })
    }

    /// A comparison with the baseline, which is verified, or with nothing.
    async fn begin(
        &self,
        directory: &ReplicaDir,
        tip: Option<&Commit>,
    ) -> Result<TensorDiff<'static>, StoreError> {
        let (directory, tip, options) = (directory.clone(), tip.cloned(), self.options.diff.clone());
        let observer = self.options.observer.clone();
        blocking(move || {
            directory.sweep(&[])?;
            let (diff, bytes) = match &tip {
                None => (TensorDiff::new(None, &options, Progress::none())?, 0),
                Some(tip) => {
                    let (base, leaves) = verify_baseline(&directory, tip, &options, &observer)?;
                    (TensorDiff::over(base, leaves, &options)?, tip.record.contents.state_bytes)
                }
            };
            observer.start(Phase::Encode, bytes);
            Ok(diff.with_scratch_dir(&directory.downloads().path()))
        })
        .await
    }
}

impl TensorFeed {
    /// Says what becomes of the tensors of the version before that are not given; by default there must be
    /// none.
    #[must_use]
    pub fn with_others(mut self, others: Others) -> Self {
        self.next.others = others;
        self
    }

    /// Compares a tensor with the baseline's of the same name, and keeps what changes. Nothing of it is
    /// needed afterwards.
    ///
    /// This computes on as many threads as the options say, and returns when it is done: not for a thread of
    /// the runtime.
    ///
    /// # Errors
    /// As [`TensorDiff::add`]. Then nothing can be published with this feed.
    pub fn add(&mut self, name: &str, tensor: &impl View) -> Result<(), StoreError> {
        let added = self.diff.add(name, tensor);
        self.added(added, tensor.data_len() as u64)
    }

    /// Changes a tensor of the version before at `positions`: the numbers of its elements, strictly
    /// ascending, and their new values in the same order, little-endian. Blocks as [`TensorFeed::add`] does.
    ///
    /// # Errors
    /// As [`TensorDiff::add_changes`]. Then nothing can be published with this feed.
    pub fn add_changes(&mut self, name: &str, positions: &[u64], values: &[u8]) -> Result<(), StoreError> {
        let added = self.diff.add_changes(name, positions, values);
        self.added(added, values.len() as u64)
    }

    /// As [`TensorFeed::add_changes`], with the new values as a tensor, whose dtype must be the tensor's.
    ///
    /// # Errors
    /// As [`TensorDiff::add_changed_values`]. Then nothing can be published with this feed.
    pub fn add_changed_values(
        &mut self,
        name: &str,
        positions: &[u64],
        values: &impl View,
    ) -> Result<(), StoreError> {
        let added = self.diff.add_changed_values(name, positions, values);
        self.added(added, values.data_len() as u64)
    }

    fn added(&mut self, result: Result<(), DiffError>, bytes: u64) -> Result<(), StoreError> {
        let result = result
            .map_err(StoreError::from)
            .and_then(|()| Ok(self.observer.advance(Phase::Encode, bytes)?));
        self.refused |= result.is_err();
        result
    }

    /// Adds the tensors of an iterator, which runs on a thread that may block. An error that it yields ends
    /// it.
    ///
    /// # Errors
    /// As [`TensorFeed::add`]; [`StoreError::Tensors`] with the iterator's own.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time. The iterator is dropped after the tensor at hand.
    pub async fn add_all<N, V, E, I>(self, tensors: I) -> Result<Self, StoreError>
    where
        N: AsRef<str>,
        V: View,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        I: IntoIterator<Item = Result<(N, V), E>> + Send + 'static,
    {
        let failed = |error: E| StoreError::Tensors(error.into());
        self.fill(move || tensors.into_iter().map(move |tensor| tensor.map_err(failed))).await
    }

    async fn fill<N, V, I>(self, tensors: impl FnOnce() -> I + Send + 'static) -> Result<Self, StoreError>
    where
        N: AsRef<str>,
        V: View,
        I: Iterator<Item = Result<(N, V), StoreError>>,
    {
        let Self { mut diff, observer, refused, next } = self;
        let (caller, _waits) = oneshot::channel::<()>();
        let told = observer.clone();
        // The lock is held until the thread has let go of the baseline.
        let filled = next.directory.blocking(move || {
            for tensor in tensors() {
                if caller.is_closed() {
                    return Err(Cancelled.into());
                }
                let (name, tensor) = tensor?;
                diff.add(name.as_ref(), &tensor)?;
                told.advance(Phase::Encode, tensor.data_len() as u64)?;
            }
            Ok(diff)
        });
        let diff = filled.await?;
        Ok(Self { diff, observer, refused, next })
    }

    /// Gives the version a file beside the weights, such as `config.json`. Without any, it has those of the
    /// version before; with one, it has those that are given and no others.
    ///
    /// # Errors
    /// If no such file may have this name, one was given before, or it cannot be copied into the baseline's
    /// directory.
    pub fn add_companion(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.next.check_companion(name)?;
        let companion = write_companion(&self.next.directory, name.to_owned(), bytes)?;
        self.next.companions.get_or_insert_default().push(companion);
        Ok(())
    }

    /// Gives the version a copy of the file at `path` under its own name, as [`TensorFeed::add_companion`]
    /// does.
    ///
    /// # Errors
    /// As [`TensorFeed::add_companion`]; also if it cannot be read, or has more than 256 MiB.
    pub fn add_companion_file(&mut self, path: impl AsRef<Path>) -> Result<(), StoreError> {
        let path = path.as_ref();
        let name = path.file_name().and_then(OsStr::to_str);
        let name = name.ok_or_else(|| StoreError::FileName { path: path.into() })?;
        self.next.check_companion(name)?;
        let file = open_regular(path).map_err(|error| StoreError::local(path, error))?;
        let companion = copy_companion(&self.next.directory, name, (path, &file))?;
        self.next.companions.get_or_insert_default().push(companion);
        Ok(())
    }

    /// Publishes the version.
    ///
    /// What was given is written as a patch, which is decoded and verified before its upload ends. A first
    /// version is written to the baseline's directory as files.
    ///
    /// # Errors
    /// As [`Publisher::publish_labelled`]. Also if a tensor was refused or is missing; [`StoreError::Empty`]
    /// if tensors were to stay, and there is no version before. [`StoreError::WrongState`] if the baseline
    /// was altered since it was verified; the next call restores it.
    ///
    /// # Cancel safety
    /// As [`Publisher::publish`].
    pub async fn finish(self) -> Result<Published, StoreError> {
        let Self { diff, refused, next, .. } = self;
        if refused {
            return Err(StoreError::Tensors("one of them was refused".into()));
        }
        let NextVersion { publisher, mut known, directory, tip, label, others, companions } = next;
        let (options, observer) = (publisher.options.diff.clone(), publisher.options.observer.clone());
        let label = label.as_deref();
        let mut published = match &tip {
            None if others == Others::Kept => return Err(StoreError::Empty),
            None => {
                let (nonce, dir) = (Nonce::random(), directory.clone());
                let staged = blocking(move || stage_tensors(&dir, diff, &options, &observer)).await?;
                let companions = companions.unwrap_or_default();
                let prepared = publisher.upload_first(&companions, staged, nonce).await?;
                publisher.commit(&directory, None, prepared, nonce, label, &mut known).await?
            }
            Some(tip) => {
                let companions = companions.unwrap_or_else(|| kept_companions(&directory, tip));
                let write = move |directory: &ReplicaDir, tip: &Commit, outgoing: &mut _| {
                    finish_and_check(directory, (diff, others), tip, &options, &observer, outgoing)
                };
                let patch = publisher.upload_patch(&directory, tip, write).await?;
                publisher.publish_patch(&directory, tip, &companions, patch, label, &mut known).await?
            }
        };
        publisher.anchor_if_due(&directory, &mut known, &mut published).await;
        Ok(published)
    }
}

impl NextVersion {
    fn check_companion(&self, name: &str) -> Result<(), StoreError> {
        let refused = |what| Err(StoreError::Companion { name: name.to_owned(), what });
        let last = name.rsplit('/').next().unwrap_or_default();
        if !is_writable_everywhere(name) || !is_companion_name(OsStr::new(last)) {
            return refused("it is hidden, a name of weights, or has characters that no file may have here");
        }
        let given = self.companions.iter().flatten().map(|companion| companion.name.as_str());
        if check_distinct(given.chain([name]), str::to_lowercase).is_err() {
            return refused("it was given twice, or is in the way of another");
        }
        Ok(())
    }
}

/// The files beside the weights that `tip` has.
fn kept_companions(directory: &ReplicaDir, tip: &Commit) -> Vec<Companion> {
    let kept = tip.record.companions.iter().map(|companion| Companion {
        name: companion.name.clone(),
        copy: directory.root().join(&companion.name),
        digest: companion.object.blake3,
        bytes: companion.object.bytes,
    });
    kept.collect()
}
