//! Writing and reading leases (spec/stream.md section 11).

use bytes::Bytes;
use tensorpatch_stream::lease::{Lease, LiveLease, MAX_LEASE_BYTES};
use tensorpatch_stream::{Nonce, names};

use super::Stream;
use crate::error::StoreError;

impl Stream {
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

    /// The leases that live at `now` of the store's clock, and the names of those that do not.
    pub(crate) async fn leases(&self, now: i64) -> Result<(Vec<LiveLease>, Vec<String>), StoreError> {
        let (mut live, mut dead) = (Vec::new(), Vec::new());
        let listed = self.bucket().list(names::LEASES, None).await?;
        for object in listed.into_iter().filter(|object| names::is_lease(&object.name)) {
            let name = format!("{}/{}", names::LEASES, object.name);
            let bytes = match self.bucket().get_small(&name, MAX_LEASE_BYTES).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(StoreError::Damaged { .. }) => Bytes::new(),
                Err(error) => return Err(error),
            };
            // A clock of the store that goes back keeps leases alive.
            let age = u64::try_from(now.saturating_sub(object.modified)).unwrap_or(0);
            match LiveLease::read(&name, &bytes, age) {
                Some(lease) => live.push(lease),
                None => dead.push(name),
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
        let (live, dead) = stream.leases(now).await.unwrap();
        assert_eq!((live.len(), dead.len()), (2, 0));
        assert!(live.contains(&LiveLease { holder: "engine-1".into(), needs: held.unwrap() }));
        assert!(live.iter().any(|lease| lease.needs == Version::FIRST));
        let (live, dead) = stream.leases(now + 62).await.unwrap();
        assert_eq!((live.len(), dead), (1, vec!["leases/a.json".to_owned()]));
        assert_eq!(stream.leases(now - 1000).await.unwrap().0.len(), 2);
        stream.release("a").await.unwrap();
        stream.release("a").await.unwrap();
        assert_eq!(stream.leases(now).await.unwrap().0.len(), 1);
    }
}
