//! Reading edge records: as many as are of use, each once, and those that cannot be read passed over. Anybody
//! who can write to the bucket can put any number of them there.

use tensorpatch_stream::retention::Listed;
use tensorpatch_stream::{EdgeRecord, Version, names};

use super::Stream;
use super::budget::Budget;
use crate::bucket::buffered_all;
use crate::error::StoreError;
use crate::observe::counted;

/// An edge record, by its name.
#[derive(Debug)]
struct ListedEdge {
    target: Version,
    base: Option<Version>,
    file: String,
}

/// The edge records that a store lists, the highest targets first.
#[derive(Debug)]
pub(super) struct ListedEdges(Vec<ListedEdge>);

/// The edge records that were not read, or could not be.
#[derive(Debug, Default)]
struct PassedOver {
    count: usize,
    first: Option<(String, String)>,
}

impl PassedOver {
    fn add(&mut self, file: &str, why: impl ToString) {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| (file.to_owned(), why.to_string()));
    }

    /// One line, however many there are.
    fn tell(&self) {
        if let Some((name, why)) = &self.first {
            let passed = counted(self.count, "edge record is", "edge records are");
            tracing::warn!("{passed} passed over, the first: {why} (edges/{name})");
        }
    }
}

impl Stream {
    /// Lists the edge records; of more than the policy allows, those with the highest targets.
    ///
    /// The stream is whole without them, so a list that cannot be read counts as none.
    pub(super) async fn listed_edges(&self) -> Result<ListedEdges, StoreError> {
        let what = "the edge records cannot be listed, and are passed over";
        let listed = self.bucket().list_if_readable(names::EDGES, None, what).await?;
        let edge = |object: Listed| {
            let (target, base, _) = names::edge_ends(&object.name)?;
            Some(ListedEdge { target, base, file: object.name })
        };
        let mut edges: Vec<ListedEdge> = listed.into_iter().filter_map(edge).collect();
        edges.sort_unstable_by(|a, b| (b.target, &b.file).cmp(&(a.target, &a.file)));
        let most = self.policy().plans.max_edge_records;
        if edges.len() > most {
            tracing::warn!("there are {} edge records, {most} are read (max_edge_records)", edges.len());
            edges.truncate(most);
        }
        Ok(ListedEdges(edges))
    }

    /// The edges whose ends are between `from` and `to`; those that cannot be read are left out.
    pub(crate) async fn edges(
        &self,
        from: Version,
        to: Version,
        budget: &Budget,
    ) -> Result<Vec<EdgeRecord>, StoreError> {
        let listed = self.listed_edges().await?;
        self.read_edges(&listed, from, to, budget).await
    }

    pub(super) async fn read_edges(
        &self,
        listed: &ListedEdges,
        from: Version,
        to: Version,
        budget: &Budget,
    ) -> Result<Vec<EdgeRecord>, StoreError> {
        let is_between = |edge: &&ListedEdge| {
            (from..=to).contains(&edge.target) && edge.base.is_none_or(|base| base >= from)
        };
        let mut passed_over = PassedOver::default();
        let edges = self.readable(listed.0.iter().filter(is_between), &mut passed_over, budget).await?;
        passed_over.tell();
        Ok(edges)
    }

    /// The newest version up to `to` that an edge which can be read gives an anchor.
    pub(super) async fn newest_anchor_edge(
        &self,
        listed: &ListedEdges,
        to: Version,
    ) -> Result<Option<Version>, StoreError> {
        let is_anchor = |edge: &&ListedEdge| edge.base.is_none() && edge.target <= to;
        let anchors: Vec<&ListedEdge> = listed.0.iter().filter(is_anchor).collect();
        let mut passed_over = PassedOver::default();
        let mut newest = None;
        for some in anchors.chunks(self.policy().transfers.parallel_requests.max(1)) {
            let read = self.readable(some.iter().copied(), &mut passed_over, &Budget::of(self)).await?;
            newest = read.iter().map(|edge| edge.target.version).max();
            if newest.is_some() {
                break;
            }
        }
        passed_over.tell();
        Ok(newest)
    }

    /// Reads edges that were listed, unless they are gone by now.
    async fn readable<'a>(
        &self,
        edges: impl Iterator<Item = &'a ListedEdge> + Send,
        passed_over: &mut PassedOver,
        budget: &Budget,
    ) -> Result<Vec<EdgeRecord>, StoreError> {
        let read = buffered_all(edges, self.policy().transfers.parallel_requests, |edge| async move {
            match self.edge(&edge.file).await {
                Err(error @ StoreError::Object { .. }) => Err(error),
                Err(error) => Ok((edge, Err(error))),
                Ok(Some((record, bytes))) => budget.take(bytes).map(|()| (edge, Ok(Some(record)))),
                Ok(None) => Ok((edge, Ok(None))),
            }
        });
        let mut records = Vec::new();
        for (edge, result) in read.await? {
            match result {
                Ok(record) => records.extend(record),
                Err(error) => passed_over.add(&edge.file, error),
            }
        }
        Ok(records)
    }

    /// The names of the edge records, if there are not more than are read: what decides by all of them must
    /// not decide by some.
    pub(crate) async fn all_edges(&self) -> Result<Vec<Listed>, StoreError> {
        let listed = self.bucket().list(names::EDGES, None).await?;
        let most = self.policy().plans.max_edge_records;
        let named = listed.iter().filter(|object| names::edge_ends(&object.name).is_some()).count();
        if named > most {
            return Err(StoreError::Damaged {
                name: names::EDGES.into(),
                what: format!("it has {named} records: at most {most} are read (max_edge_records)"),
            });
        }
        Ok(listed)
    }
}
