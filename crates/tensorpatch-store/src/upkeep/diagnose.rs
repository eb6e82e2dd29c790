//! Whether a place is fit for a stream: what a person would try by hand when something does not work, one
//! thing after the other.

use std::fmt::Display;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Access, access};
use serde::Serialize;
use tensorpatch_checkpoint::ConfinedPath;
use tensorpatch_stream::{Key, Nonce, StreamId, StreamRecord, TrustKey, Version, names};

use crate::bucket::Bucket;
use crate::bucket::probe::probe;
use crate::bucket::url::open_for_reading;
use crate::cause::Cause;
use crate::error::StoreError;
use crate::local::unix_now;
use crate::settings::Policy;
use crate::stream::Stream;
use crate::stream::vacant::check_directory;

/// Small requests whose times are compared.
const ROUNDS: usize = 5;
/// The most bytes that are transferred to measure a rate.
const SAMPLE_BYTES: u64 = 8 << 20;
/// A clock that is off by more is told of: S3 refuses requests at 15 minutes.
const CLOCK_TOLERANCE_SECONDS: u64 = 60;
/// How long a request is tried: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The checks that are of the stream, and not of the place.
const STREAM: &str = "stream";
const NEWEST: &str = "newest version";

/// Choices for a diagnosis.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DiagnoseOptions {
    /// Whether objects are written below `probe/`, and removed again: only so the clock of the store, its
    /// conditional writes and the rate of uploads can be found out.
    pub write: bool,
    /// The keys that are trusted: the newest record must then be signed by one that counts.
    pub trust_keys: Vec<TrustKey>,
    /// The id that the stream must have.
    pub stream: Option<StreamId>,
    /// The version that the newest must not be below.
    pub tip: Option<Version>,
}

impl DiagnoseOptions {
    /// The same with writing allowed.
    #[must_use]
    pub fn writing(mut self) -> Self {
        self.write = true;
        self
    }

    /// The same with every stream but this one refused.
    #[must_use]
    pub fn expecting_stream(mut self, id: StreamId) -> Self {
        self.stream = Some(id);
        self
    }

    /// The same with a stream refused whose newest version is below `version`.
    #[must_use]
    pub fn expecting_tip(mut self, version: Version) -> Self {
        self.tip = Some(version);
        self
    }

    fn expects_stream(&self) -> bool {
        self.stream.is_some() || self.tip.is_some()
    }

    /// The same with records refused that are not signed by one of these keys.
    #[must_use]
    pub fn trusting(mut self, keys: impl IntoIterator<Item = TrustKey>) -> Self {
        self.trust_keys.extend(keys);
        self
    }
}

/// What was found out about a place.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The findings, in the order in which they were made.
    pub findings: Vec<Finding>,
    /// The median time of a small request.
    pub latency_seconds: Option<f64>,
    /// Bytes a second of one download.
    pub download_bytes_per_second: Option<f64>,
    /// Bytes a second of one upload.
    pub upload_bytes_per_second: Option<f64>,
    /// By how much the clock of the store is ahead of this machine's.
    pub store_clock_ahead_seconds: Option<i64>,
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was asked, in a word or two that do not change.
    pub check: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, and may not be what was meant.
    Warning,
    /// Something does not work.
    Bad,
    /// Not looked at.
    Skipped,
}

impl Diagnosis {
    /// Whether nothing is bad.
    pub fn is_fit(&self) -> bool {
        self.bad().next().is_none()
    }

    /// Whether the place works, and what is bad is the stream there alone.
    pub fn blames_stream(&self) -> bool {
        !self.is_fit() && self.bad().all(|finding| matches!(finding.check, STREAM | NEWEST))
    }

    fn bad(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Bad)
    }

    fn find(&mut self, check: &'static str, verdict: Verdict, what: impl Display, advice: Option<&str>) {
        let advice = advice.map(str::to_owned);
        self.findings.push(Finding { check, verdict, what: what.to_string(), advice });
    }

    fn good(&mut self, check: &'static str, what: impl Display) {
        self.find(check, Verdict::Good, what, None);
    }

    fn skip(&mut self, check: &'static str, what: impl Display) {
        self.find(check, Verdict::Skipped, what, None);
    }

    fn fail(&mut self, check: &'static str, error: &StoreError) {
        self.find(check, Verdict::Bad, error, advice(error).or(error.cause().and_then(Cause::advice)));
    }
}

/// Looks whether the place that `url` names is fit for a stream, and how fast it is.
///
/// It fails never: what does not work is a finding. Requests are given up sooner than those of a publisher
/// are.
///
/// # Cancel safety
/// The future may be dropped at any time; objects below `probe/` may then stay, which a collector removes.
pub async fn diagnose(url: &str, policy: &Policy, options: &DiagnoseOptions) -> Diagnosis {
    let mut policy = policy.clone();
    policy.retries.attempts = 1;
    policy.retries.client_retries = policy.retries.client_retries.min(2);
    policy.retries.client_retry_timeout = policy.retries.client_retry_timeout.min(PATIENCE);
    policy.timeouts.request_timeout = policy.timeouts.request_timeout.min(PATIENCE.saturating_mul(6));
    let mut diagnosis = Diagnosis::default();
    let bucket = match open_for_reading(url, &policy) {
        Ok(opened) => Bucket::of(opened).with_policy(policy),
        Err(StoreError::NoStream { place }) if !options.expects_stream() => {
            look_at_nothing(FilePath::new(&place), &mut diagnosis);
            if options.write {
                diagnosis.skip("writing", "not tried: there is no directory yet");
            }
            return diagnosis;
        }
        Err(error) => {
            diagnosis.fail("address", &error);
            return diagnosis;
        }
    };
    diagnosis.good("address", bucket.place());
    diagnose_bucket(&bucket, options, &mut diagnosis).await;
    diagnosis
}

/// Whether a directory that is not there yet could be made.
fn look_at_nothing(place: &FilePath, diagnosis: &mut Diagnosis) {
    let place = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
    let there = place.ancestors().find(|path| path.exists()).unwrap_or(FilePath::new("/"));
    let (nothing, there_name) = (format!("nothing is at {} yet", place.display()), there.display());
    if !there.is_dir() {
        let what = format!("{nothing}, and {there_name} is a file: no directory can be made there");
        return diagnosis.find("address", Verdict::Bad, what, Some("check the path"));
    }
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => {
            let what = format!("{nothing}; it can be made, as this user may write to {there_name}");
            let advice = "tensorpatch publish creates it; if there should be a stream, check the path";
            diagnosis.find("address", Verdict::Warning, what, Some(advice));
        }
        Err(error) => {
            let error = std::io::Error::from(error);
            let what = format!("{nothing}, and it cannot be made: {there_name}: {error}");
            diagnosis.find("address", Verdict::Bad, what, Cause::of_io(&error).advice());
        }
    }
}

async fn diagnose_bucket(bucket: &Bucket, options: &DiagnoseOptions, diagnosis: &mut Diagnosis) {
    if look_at_credentials(bucket, diagnosis).await.is_none() {
        return;
    }
    look_at_listing(bucket, diagnosis).await;
    let sample = look_at_stream(bucket, options, diagnosis).await;
    look_at_latency(bucket, diagnosis).await;
    look_at_downloads(bucket, sample, diagnosis).await;
    if options.write {
        return look_at_writing(bucket, diagnosis).await;
    }
    for check in ["writing", "conditional writes", "clock", "upload"] {
        diagnosis.skip(check, "not tried: nothing is written");
    }
}

/// Whether anything can be read at all: `None` ends the diagnosis.
async fn look_at_credentials(bucket: &Bucket, diagnosis: &mut Diagnosis) -> Option<()> {
    let read = match bucket.size(names::STREAM).await {
        // A bucket that does not exist has no object either, as far as that answer goes.
        Ok(None) => match bucket.list(names::COMMITS, None).await {
            Err(error) if error.cause() == Some(Cause::NoBucket) => Err(error),
            _ => Ok(()),
        },
        read => read.map(|_| ()),
    };
    match read {
        Ok(()) => {
            diagnosis.good("reading", "the store answers, and lets this user read");
            Some(())
        }
        Err(error) => {
            diagnosis.fail("reading", &error);
            None
        }
    }
}

async fn look_at_listing(bucket: &Bucket, diagnosis: &mut Diagnosis) {
    match bucket.list(names::COMMITS, None).await {
        Ok(listed) => {
            let records =
                listed.iter().filter(|object| names::commit_version(&object.name).is_some()).count();
            diagnosis.good("listing", format!("commit records listed: {records}"));
        }
        Err(error) => diagnosis.fail("listing", &error),
    }
}

/// What there is to download some of.
enum Sample {
    Object(Key, u64),
    NoVersion,
    /// The stream cannot be read, of which the diagnosis tells.
    Unknown,
}

/// What stream there is, and a sample of it.
async fn look_at_stream(bucket: &Bucket, options: &DiagnoseOptions, diagnosis: &mut Diagnosis) -> Sample {
    let stream = match open(bucket, options).await {
        Ok(stream) => stream,
        Err(StoreError::NoStream { .. }) if !options.expects_stream() => {
            if let Err(error) = check_directory(bucket).await {
                diagnosis.fail("room", &error);
                return Sample::NoVersion;
            }
            let advice = "tensorpatch publish creates it; if there should be one, check the URL";
            diagnosis.find(STREAM, Verdict::Warning, "there is none yet", Some(advice));
            return Sample::NoVersion;
        }
        Err(error) => {
            diagnosis.fail(STREAM, &error);
            return Sample::Unknown;
        }
    };
    let StreamRecord { leaf_hash, .. } = stream.record();
    let signed = if stream.is_signed() { "signed" } else { "not signed" };
    let tip = match stream.tip().await {
        Ok(tip) => tip,
        Err(error) => {
            diagnosis.fail(STREAM, &error);
            return Sample::Unknown;
        }
    };
    let newest = tip.as_ref().map_or("no version".into(), |tip| format!("version {}", tip.record.version));
    diagnosis.good(STREAM, format!("{}, {signed}, {}, {newest}", stream.id(), leaf_hash.name()));
    let found = tip.map(|tip| tip.record.version);
    if let Some(known) = options.tip.filter(|known| found < Some(*known)) {
        diagnosis.fail(NEWEST, &StoreError::HiddenTip { place: bucket.place(), known, found });
    }
    // The largest, since of a small one only the latency could be measured.
    match stream.data_objects().await {
        Ok(objects) => objects
            .into_iter()
            .max_by_key(|(_, listed)| listed.bytes)
            .map_or(Sample::NoVersion, |(key, listed)| Sample::Object(key, listed.bytes)),
        Err(_) => Sample::Unknown,
    }
}

async fn open(bucket: &Bucket, options: &DiagnoseOptions) -> Result<Stream, StoreError> {
    let stream = Stream::open_in(bucket.clone()).await?;
    if let Some(expected) = options.stream.filter(|expected| *expected != stream.id()) {
        return Err(StoreError::WrongStream { place: bucket.place(), expected, found: stream.id() });
    }
    match options.trust_keys.as_slice() {
        [] => Ok(stream),
        keys => stream.trusting(keys.to_vec()).await,
    }
}

/// What to do about records that are not as they should be.
fn advice(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::StreamRecordLost { .. } => {
            Some("restore stream.json, from a mirror or a backup: the versions are as they were")
        }
        StoreError::Occupied { .. } => Some("publish elsewhere: a stream has a directory of its own"),
        StoreError::NoStream { .. } => Some("check the URL; tensorpatch publish creates a stream"),
        StoreError::WrongStream { .. } => Some(
            "check the URL and --stream; if it is the right place, find out who has put another stream there",
        ),
        StoreError::HiddenTip { .. } => {
            Some("find out who hides or has deleted the newer versions, or wait: a mirror may be behind")
        }
        StoreError::Untrusted { name, .. } if name == names::STREAM => {
            Some("name the key that the stream is signed with; if nobody knows that key, distrust the stream")
        }
        StoreError::Untrusted { .. } => Some(
            "the owner of the key takes back what is not signed by it: tensorpatch rollback URL --sign-key FILE",
        ),
        StoreError::Damaged { name, .. } | StoreError::Record { name, .. }
            if name.starts_with(names::COMMITS) =>
        {
            Some(
                "copy the record from a mirror or a backup: \"a damaged record\" in docs/runbook.md says more",
            )
        }
        _ => None,
    }
}

async fn look_at_latency(bucket: &Bucket, diagnosis: &mut Diagnosis) {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        if let Err(error) = bucket.size(names::STREAM).await {
            return diagnosis.fail("latency", &error);
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let Some(median) = times.get(ROUNDS / 2) else { return };
    diagnosis.latency_seconds = Some(median.as_secs_f64());
    let what = format!("{:.1} ms for a small request, the median of {ROUNDS}", median.as_secs_f64() * 1e3);
    diagnosis.good("latency", what);
}

async fn look_at_downloads(bucket: &Bucket, sample: Sample, diagnosis: &mut Diagnosis) {
    let (key, bytes) = match sample {
        Sample::Object(key, bytes) => (key, bytes),
        Sample::NoVersion => return diagnosis.skip("download", "there is no version to download some of"),
        Sample::Unknown => return diagnosis.skip("download", "not tried: the stream cannot be read"),
    };
    let begun = Instant::now();
    match bucket.get_range(key.as_str(), 0..bytes.min(SAMPLE_BYTES)).await {
        Ok(bytes) => {
            let rate = rate(bytes.len(), begun.elapsed());
            diagnosis.download_bytes_per_second = Some(rate);
            diagnosis.good("download", rate_text(rate, bytes.len()));
        }
        Err(error) => diagnosis.fail("download", &error),
    }
}

/// Writes, reads and removes; what it writes has names of its own, which no other can have.
async fn look_at_writing(bucket: &Bucket, diagnosis: &mut Diagnosis) {
    let folder = bucket.directory().map(|directory| directory.join(names::PROBE));
    let was_there = folder.as_ref().is_some_and(|folder| folder.exists());
    write_and_remove(bucket, diagnosis).await;
    if let Some(folder) = folder.filter(|_| !was_there)
        && let Ok(folder) = ConfinedPath::of(&folder)
    {
        // It stays where somebody else has put something there meanwhile.
        let _ = folder.remove_empty_dir();
    }
}

async fn write_and_remove(bucket: &Bucket, diagnosis: &mut Diagnosis) {
    let name = format!("{}/{}-sample", names::PROBE, Nonce::random());
    let sample = Bytes::from(vec![0x5a; usize::try_from(SAMPLE_BYTES).unwrap_or_default()]);
    let begun = Instant::now();
    if let Err(error) = bucket.put(&name, sample.clone()).await {
        return diagnosis.fail("writing", &error);
    }
    let rate = rate(sample.len(), begun.elapsed());
    let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
    diagnosis.upload_bytes_per_second = Some(rate);
    let modified = bucket.modified(&name).await;
    match bucket.delete(&name).await {
        Ok(()) => diagnosis.good("writing", "objects can be written and deleted"),
        Err(error) => {
            diagnosis.fail("writing", &error);
            let advice = "publishers need no deleting; gc and leases do";
            diagnosis.find("writing", Verdict::Warning, format!("{name} is left"), Some(advice));
        }
    }
    match probe(bucket).await {
        Ok(None) => diagnosis.good("conditional writes", "of several publishers one wins"),
        Ok(Some(why)) => {
            let advice =
                "use another store, or promise with publish --single-writer that there is one publisher";
            diagnosis.find("conditional writes", Verdict::Bad, why, Some(advice));
        }
        Err(error) => diagnosis.fail("conditional writes", &error),
    }
    match modified {
        Ok(Some(modified)) => compare_clocks(modified.saturating_sub(now), diagnosis),
        Ok(None) => diagnosis.fail("clock", &StoreError::Missing { name }),
        Err(error) => diagnosis.fail("clock", &error),
    }
    diagnosis.good("upload", rate_text(rate, sample.len()));
}

fn compare_clocks(ahead: i64, diagnosis: &mut Diagnosis) {
    diagnosis.store_clock_ahead_seconds = Some(ahead);
    let off = ahead.unsigned_abs();
    if off <= CLOCK_TOLERANCE_SECONDS {
        return diagnosis.good("clock", format!("within {} s of the store's", off.saturating_add(1)));
    }
    let side = if ahead > 0 { "behind" } else { "ahead of" };
    let what = format!("this machine is {off} s {side} the store");
    let advice = "set the clock of this machine, such as with NTP: leases and dates go by it";
    diagnosis.find("clock", Verdict::Warning, what, Some(advice));
}

fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

fn rate_text(rate: f64, bytes: usize) -> String {
    format!("{:.1} MB/s for one object, measured over {bytes} bytes", rate / 1e6)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::CreateOptions;
    use crate::faulty_store::{Fault, FaultyStore};

    async fn diagnosed(bucket: &Bucket, options: &DiagnoseOptions) -> Diagnosis {
        let mut diagnosis = Diagnosis::default();
        diagnose_bucket(bucket, options, &mut diagnosis).await;
        diagnosis
    }

    fn verdict(diagnosis: &Diagnosis, check: &str) -> Verdict {
        diagnosis.findings.iter().find(|finding| finding.check == check).unwrap().verdict
    }

    #[tokio::test]
    async fn a_good_place_is_fit_and_is_left_as_it_was() {
        let store = Arc::new(InMemory::new());
        Stream::create(store.clone(), "s".into(), CreateOptions::default()).await.unwrap();
        let bucket = Bucket::new(store, "s".into());
        let read = diagnosed(&bucket, &DiagnoseOptions::default()).await;
        assert!(read.is_fit() && read.latency_seconds.is_some(), "{read:?}");
        assert_eq!(verdict(&read, "conditional writes"), Verdict::Skipped);
        let written = diagnosed(&bucket, &DiagnoseOptions::default().writing()).await;
        assert!(written.is_fit() && written.upload_bytes_per_second.is_some(), "{written:?}");
        assert_eq!(written.store_clock_ahead_seconds.map(i64::abs).filter(|off| *off > 5), None);
        assert!(bucket.list(names::PROBE, None).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_store_that_does_not_keep_publishers_apart_is_bad() {
        let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), |_| Fault::None));
        store.ignore_conditions();
        let bucket = Bucket::new(store, "s".into());
        let diagnosis = diagnosed(&bucket, &DiagnoseOptions::default().writing()).await;
        assert_eq!(verdict(&diagnosis, "conditional writes"), Verdict::Bad);
        assert_eq!(verdict(&diagnosis, "stream"), Verdict::Warning);
        assert!(!diagnosis.is_fit());
    }

    #[test]
    fn a_clock_that_is_off_by_minutes_is_told_of() {
        let mut diagnosis = Diagnosis::default();
        compare_clocks(-200, &mut diagnosis);
        compare_clocks(3, &mut diagnosis);
        let verdicts: Vec<Verdict> = diagnosis.findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Warning, Verdict::Good]);
        assert!(diagnosis.findings[0].what.contains("200 s ahead of the store"));
    }
}
