//! Leases: a replica says what it holds and wants, so that collectors leave its way alone (spec/stream.md section 11).

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::names::{Nonce, Version};
use crate::stream::Stream;

/// The longest that a lease may live without being renewed.
const MAX_SECONDS: u64 = 604_800;
const MAX_LEASE_BYTES: u64 = 4096;
/// The most characters of a holder's name that are shown, and written.
pub(crate) const MAX_HOLDER: usize = 256;
const FOLDER: &str = "leases";

/// The contents of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// Who holds it, for people.
    pub(crate) holder: String,
    /// The version that is held.
    pub(crate) version: Option<Version>,
    /// The version that is wanted.
    pub(crate) target: Version,
    /// How long it lives.
    pub(crate) seconds: u64,
}

/// A lease that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Live {
    pub(crate) holder: String,
    /// The lowest version that it needs.
    pub(crate) needs: Version,
}

impl Stream {
    /// Writes or renews the lease `id`.
    pub(crate) async fn lease(&self, id: &str, lease: &Lease) -> Result<(), StoreError> {
        let name = format!("{FOLDER}/{id}.json");
        let bytes = serde_json::to_vec(lease)
            .map_err(|e| StoreError::Damaged { name: name.clone(), what: e.to_string() })?;
        self.bucket().put(&name, bytes.into()).await
    }

    /// Gives the lease `id` up.
    pub(crate) async fn release(&self, id: &str) -> Result<(), StoreError> {
        self.bucket().delete(&format!("{FOLDER}/{id}.json")).await
    }

    /// The leases that live at `now` of the store's clock, and the names of those that do not.
    pub(crate) async fn leases(&self, now: i64) -> Result<(Vec<Live>, Vec<String>), StoreError> {
        let (mut live, mut dead) = (Vec::new(), Vec::new());
        for object in self.bucket().list(FOLDER, None).await? {
            let name = format!("{FOLDER}/{}", object.name);
            let bytes = match self.bucket().get_small(&name, MAX_LEASE_BYTES).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(StoreError::Damaged { .. }) => Bytes::new(),
                Err(error) => return Err(error),
            };
            // One that cannot be read may be of a later version of this program, so it counts while it is young.
            let lease: Option<Lease> = serde_json::from_slice(&bytes).ok();
            let seconds = lease.as_ref().map_or(MAX_SECONDS, |lease| lease.seconds.min(MAX_SECONDS));
            let age = u64::try_from(now.saturating_sub(object.modified)).unwrap_or(0);
            if age > seconds {
                dead.push(name);
                continue;
            }
            let needs = lease.as_ref().map_or(Version::FIRST, |lease| {
                lease.version.map_or(lease.target, |held| held.min(lease.target))
            });
            // It is shown to people, and anybody may have written it.
            let shown = |holder: &str| holder.chars().filter(|c| !c.is_control()).take(MAX_HOLDER).collect();
            live.push(Live { holder: lease.map_or(name, |lease| shown(&lease.holder)), needs });
        }
        Ok((live, dead))
    }

    /// The time by the store's clock: that of an object written just now.
    pub(crate) async fn store_now(&self) -> Result<i64, StoreError> {
        let name = format!("probe/{}-clock", Nonce::random());
        self.bucket().put(&name, "now".into()).await?;
        let now = self.bucket().modified(&name).await?;
        self.bucket().delete(&name).await?;
        now.ok_or(StoreError::Missing { name })
    }
}

/// The seconds of a lease of this length.
pub(crate) fn seconds(length: Duration) -> u64 {
    length.as_secs().clamp(1, MAX_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CreateOptions;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test]
    async fn leases_live_as_long_as_they_say_and_unreadable_ones_as_long_as_any() {
        let store = Arc::new(InMemory::new());
        let stream = Stream::create(store, "s".into(), CreateOptions::default()).await.unwrap();
        let lease = Lease {
            holder: "engine-1".into(),
            version: Version::new(5),
            target: Version::new(9).unwrap(),
            seconds: 60,
        };
        stream.lease("a", &lease).await.unwrap();
        stream.bucket().put("leases/b.json", "from the future".into()).await.unwrap();
        let now = stream.store_now().await.unwrap();
        let (live, dead) = stream.leases(now).await.unwrap();
        assert_eq!((live.len(), dead.len()), (2, 0));
        assert!(live.contains(&Live { holder: "engine-1".into(), needs: Version::new(5).unwrap() }));
        assert!(live.iter().any(|lease| lease.needs == Version::FIRST));
        let (live, dead) = stream.leases(now + 62).await.unwrap();
        assert_eq!((live.len(), dead), (1, vec!["leases/a.json".to_owned()]));
        let (live, _) = stream.leases(now + 700_000).await.unwrap();
        assert_eq!(live, []);
        // What it says of its holder is shown to people.
        let holder = format!("\u{1b}[2Jeng\nine{}", "x".repeat(1000));
        stream.lease("c", &Lease { holder, ..lease.clone() }).await.unwrap();
        let (live, _) = stream.leases(now).await.unwrap();
        assert!(live.iter().any(|lease| lease.holder.starts_with("[2Jengine") && lease.holder.len() == 256));
        stream.release("c").await.unwrap();
        // One that wants to live longer than any may does not.
        stream.lease("a", &Lease { seconds: u64::MAX, ..lease }).await.unwrap();
        assert_eq!(stream.leases(now + 700_000).await.unwrap().0, []);
        stream.release("a").await.unwrap();
        stream.release("a").await.unwrap();
        // A clock of the store that goes back keeps leases alive.
        assert_eq!(stream.leases(now - 1000).await.unwrap().0.len(), 1);
    }
}
