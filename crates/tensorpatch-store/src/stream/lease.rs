//! Writing and reading leases (spec/stream.md section 11).

use bytes::Bytes;
use serde::Serialize;
use tensorpatch_stream::lease::{Lease, LiveLease, MAX_LEASE_BYTES, MAX_LEASES, MAX_SECONDS};
use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::{Nonce, Version, names};

use super::Stream;
use crate::bucket::buffered_all;
use crate::error::StoreError;

/// Seconds by which a lease may be newer than all objects and the store's clock.
const MAX_AHEAD: u64 = 86_400;

/// What a replica has announced, for people: anybody who can write to the store can have written it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplicaLease {
    /// Who holds it: short, and without control characters.
    pub holder: String,
    /// The version that is held.
    pub held: Option<Version>,
    /// The version that is wanted.
    pub target: Version,
    /// When it was renewed last, in seconds since 1970 by the store's clock.
    pub renewed: i64,
    /// For how many seconds it lives from then on.
    pub seconds: u64,
}

impl ReplicaLease {
    fn read(bytes: &[u8], renewed: i64) -> Option<Self> {
        let lease: Lease = serde_json::from_slice(bytes).ok()?;
        let holder = LiveLease::read("", bytes, 0)?.holder;
        let seconds = lease.seconds.min(MAX_SECONDS);
        Some(Self { holder, held: lease.version, target: lease.target, renewed, seconds })
    }

    /// Whether it lives at `now`, in seconds since 1970. One of a time to come holds nothing.
    pub fn lives_at(&self, now: i64) -> bool {
        let ahead = u64::try_from(self.renewed.saturating_sub(now)).unwrap_or(0);
        ahead <= MAX_AHEAD && u64::try_from(now.saturating_sub(self.renewed)).unwrap_or(0) <= self.seconds
    }
}

impl Stream {
    /// The leases of all replicas that keep one, also of those that expired and are not collected yet; those
    /// that cannot be read are left out.
    ///
    /// # Errors
    /// If the store fails.
    ///
    /// # Cancel safety
    /// The future may be dropped at any time; it only reads.
    pub async fn replica_leases(&self) -> Result<Vec<ReplicaLease>, StoreError> {
        let what = "the leases cannot be listed, and are passed over";
        let mut listed = self.bucket().list_if_readable(names::LEASES, None, what).await?;
        listed.retain(|object| names::is_lease(&object.name));
        // Those that were renewed last say most.
        listed.sort_unstable_by(|a, b| (b.modified, &b.name).cmp(&(a.modified, &a.name)));
        listed.truncate(MAX_LEASES);
        let read = buffered_all(listed, self.policy().transfers.parallel_requests, |object| async move {
            self.read_lease(&format!("{}/{}", names::LEASES, object.name), object.modified).await
        });
        Ok(read.await?.into_iter().flatten().collect())
    }

    /// The lease `id`, if there is one that can be read.
    pub(crate) async fn replica_lease(&self, id: &str) -> Result<Option<ReplicaLease>, StoreError> {
        let name = lease_name(id);
        match self.bucket().modified(&name).await? {
            Some(modified) => self.read_lease(&name, modified).await,
            None => Ok(None),
        }
    }

    async fn read_lease(&self, name: &str, modified: i64) -> Result<Option<ReplicaLease>, StoreError> {
        match self.bucket().get_small(name, MAX_LEASE_BYTES).await {
            Err(StoreError::Damaged { .. }) => Ok(None),
            found => Ok(found?.and_then(|bytes| ReplicaLease::read(&bytes, modified))),
        }
    }

    /// Writes or renews the lease `id`.
    pub(crate) async fn lease(&self, id: &str, lease: &Lease) -> Result<(), StoreError> {
        let name = lease_name(id);
        let bytes = serde_json::to_vec(lease)
            .map_err(|e| StoreError::Damaged { name: name.clone(), what: e.to_string() })?;
        self.bucket().put(&name, bytes.into()).await
    }

    /// Gives the lease `id` up.
    pub(crate) async fn release(&self, id: &str) -> Result<(), StoreError> {
        self.bucket().delete(&lease_name(id)).await
    }

    /// The leases that live at `now` of the store's clock, and the names of those that do not. `newest` is
    /// the time of the newest object, or `now`.
    pub(crate) async fn leases(
        &self,
        now: i64,
        newest: i64,
    ) -> Result<(Vec<LiveLease>, Vec<String>), StoreError> {
        // A clock of the store that went back keeps leases alive. If no other object is as new, somebody
        // has set the time of the lease, in a directory: it would hold everything until then.
        let named = |object: Listed| {
            let ahead = u64::try_from(object.modified.saturating_sub(newest)).unwrap_or(0);
            let age = u64::try_from(now.saturating_sub(object.modified)).unwrap_or(0);
            let age = if ahead > MAX_AHEAD { u64::MAX } else { age };
            (format!("{}/{}", names::LEASES, object.name), age)
        };
        let listed = self.bucket().list(names::LEASES, None).await?.into_iter();
        let listed = listed.filter(|object| names::is_lease(&object.name)).map(named);
        let (mut young, old): (Vec<_>, Vec<_>) = listed.partition(|(_, age)| *age <= MAX_SECONDS);
        let (mut live, mut dead) = (Vec::new(), old.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        let unread = young.len().saturating_sub(MAX_LEASES);
        if unread > 0 {
            // What they need is not known, so they need everything.
            young.truncate(MAX_LEASES);
            live.push(LiveLease {
                holder: format!("{unread} leases that were not read"),
                needs: Version::FIRST,
                is_readable: false,
            });
        }
        let read = buffered_all(young, self.policy().transfers.parallel_requests, |(name, age)| async move {
            let bytes = match self.bucket().get_small(&name, MAX_LEASE_BYTES).await {
                Err(StoreError::Damaged { .. }) => Some(Bytes::new()),
                result => result?,
            };
            let lease = bytes.map(|bytes| LiveLease::read(&name, &bytes, age));
            Ok((name, lease))
        });
        for (name, lease) in read.await? {
            match lease {
                Some(Some(lease)) => live.push(lease),
                Some(None) => dead.push(name),
                None => {}
            }
        }
        Ok((live, dead))
    }

    /// The time by the store's clock: that of an object written just now.
    pub(crate) async fn store_now(&self) -> Result<i64, StoreError> {
        let name = format!("{}/{}-clock", names::PROBE, Nonce::random());
        self.bucket().put(&name, "now".into()).await?;
        let now = self.bucket().modified(&name).await?;
        self.bucket().delete(&name).await?;
        now.ok_or(StoreError::Missing { name })
    }
}

fn lease_name(id: &str) -> String {
    format!("{}/{id}.json", names::LEASES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CreateOptions;
    use object_store::memory::InMemory;
    use std::sync::Arc;
    use std::time::Duration;
    use tensorpatch_stream::Version;

    #[tokio::test]
    async fn a_lease_is_seen_until_it_expires_or_is_given_up() {
        let store = Arc::new(InMemory::new());
        let stream = Stream::create(store, "s".into(), CreateOptions::default()).await.unwrap();
        let (held, target) = (Version::new(5), Version::new(9).unwrap());
        stream.lease("a", &Lease::new("engine-1", held, target, Duration::from_secs(60))).await.unwrap();
        stream.bucket().put("leases/b.json", vec![b' '; 5000].into()).await.unwrap();
        for stray in [".DS_Store", "._a.json", "Thumbs.db", "a.json~", "a (copy).json", "sub/a.json", ".json"]
        {
            stream.bucket().put(&format!("leases/{stray}"), "x".into()).await.unwrap();
        }
        let now = stream.store_now().await.unwrap();
        let (live, dead) = stream.leases(now, now).await.unwrap();
        assert_eq!((live.len(), dead.len()), (2, 0));
        let announced = stream.replica_leases().await.unwrap();
        let [lease] = announced.as_slice() else { panic!("{announced:?}") };
        assert_eq!(
            (lease.holder.as_str(), lease.held, lease.target, lease.seconds),
            ("engine-1", held, target, 60)
        );
        assert!(lease.lives_at(lease.renewed + 60) && !lease.lives_at(lease.renewed + 61));
        assert!(live.contains(&LiveLease {
            holder: "engine-1".into(),
            needs: held.unwrap(),
            is_readable: true
        }));
        assert!(live.iter().any(|lease| lease.needs == Version::FIRST));
        let (live, dead) = stream.leases(now + 62, now + 62).await.unwrap();
        assert_eq!((live.len(), dead), (1, vec!["leases/a.json".to_owned()]));
        // The clock went back: that of all objects was ahead, or that of the leases alone.
        let back = now - i64::try_from(MAX_AHEAD).unwrap() - 10;
        assert_eq!(stream.leases(back, now).await.unwrap().0.len(), 2);
        let (live, dead) = stream.leases(back, back).await.unwrap();
        assert_eq!((live.len(), dead.len()), (0, 2));
        stream.release("a").await.unwrap();
        stream.release("a").await.unwrap();
        assert_eq!(stream.leases(now, now).await.unwrap().0.len(), 1);
    }

    #[tokio::test]
    async fn more_leases_than_are_read_count_for_all_versions() {
        let store = Arc::new(InMemory::new());
        let stream = Stream::create(store, "s".into(), CreateOptions::default()).await.unwrap();
        let target = Version::new(9).unwrap();
        let lease = Lease::new("engine", None, target, Duration::from_secs(60));
        for number in 0..MAX_LEASES {
            stream.lease(&number.to_string(), &lease).await.unwrap();
        }
        let now = stream.store_now().await.unwrap();
        let (live, _) = stream.leases(now, now).await.unwrap();
        assert!(live.len() == MAX_LEASES && live.iter().all(|lease| lease.needs == target));
        stream.lease("one-more", &lease).await.unwrap();
        let (live, _) = stream.leases(now, now).await.unwrap();
        assert_eq!(live.iter().map(|lease| lease.needs).min(), Some(Version::FIRST));
        assert_eq!(live.len(), MAX_LEASES + 1);
        assert_eq!(stream.replica_leases().await.unwrap().len(), MAX_LEASES);
        // Those that cannot live any more are not read, however many there are.
        let late = now + i64::try_from(MAX_SECONDS).unwrap() + 1;
        let (live, dead) = stream.leases(late, late).await.unwrap();
        assert_eq!((live.len(), dead.len()), (0, MAX_LEASES + 1));
    }
}
