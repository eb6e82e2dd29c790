//! Patches that are applied one after the other in a single pass: each chunk goes through all of them while
//! it is in the cache.

use tensorpatch_checkpoint::Placement;
use tensorpatch_codec::{ChunkContext, ChunkDecoder};
use tensorpatch_format::{
    ChunkAddress, ChunkRecord, Kind, Layout, LeafDigest, LeafHash, Limits, Schema, TensorIndex,
};

use crate::continuation::Continuation;
use crate::patch::BoundPatch;
use crate::{ApplyError, LeafTable, Patch, State};

/// The most records of a chain: each takes some memory as long as the chain is walked.
const MAX_RECORDS: u64 = 1 << 20;

/// Patches that lead from one state to the next, to be applied in one pass over the base.
///
/// ```
/// # use tensorpatch_delta::{Apply, Chain, Patch, diff};
/// # let dir = tempfile::tempdir()?;
/// # let path = |name: &str| dir.path().join(name);
/// # let write = |name: &str, weights: [u8; 4]| {
/// #     let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}        "#;
/// #     std::fs::write(path(name), [&(header.len() as u64).to_le_bytes()[..], header, &weights].concat())
/// # };
/// # write("step-5", [1, 2, 3, 4])?;
/// # write("step-6", [1, 2, 3, 5])?;
/// # write("step-7", [1, 3, 3, 5])?;
/// # diff(path("step-5"), path("step-6"))?.write(path("step-6.tpatch"))?;
/// # diff(path("step-6"), path("step-7"))?.write(path("step-7.tpatch"))?;
/// let patches = [Patch::open(path("step-6.tpatch"))?, Patch::open(path("step-7.tpatch"))?];
/// let (chain, rest) = Chain::begin(&patches).ok_or("no patch")?;
/// assert!(rest.is_empty());
/// Apply::new(chain).to(path("step-5"), path("rebuilt"))?;
/// assert_eq!(std::fs::read(path("rebuilt"))?, std::fs::read(path("step-7"))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Chain<'p> {
    first: &'p Patch<'p>,
    rest: &'p [Patch<'p>],
}

impl<'p, 'a: 'p> From<&'p Patch<'a>> for Chain<'p> {
    fn from(first: &'p Patch<'a>) -> Self {
        Self { first, rest: &[] }
    }
}

impl<'p> Chain<'p> {
    /// As many of `patches`, from the first on, as can go in one pass, and those that remain; `None` if there
    /// are no patches.
    ///
    /// A pass ends before a patch that adds, removes or reshapes tensors, and where more records would be at
    /// hand than memory should be taken for.
    pub fn begin(patches: &'p [Patch<'p>]) -> Option<(Self, &'p [Patch<'p>])> {
        let (first, others) = patches.split_first()?;
        let size = |patch: &Patch<'_>| patch.wire().index().addresses().len() as u64;
        let mut records = size(first);
        let goes_along = |patch: &&Patch<'_>| {
            records = records.saturating_add(size(patch));
            let same_tensors = patch.listed_schema().is_none() && patch.kind() != Kind::Full;
            same_tensors && patch.leaf_hash() == first.leaf_hash() && records <= MAX_RECORDS
        };
        let (rest, remaining) = others.split_at(others.iter().take_while(goes_along).count());
        Some((Self { first, rest }, remaining))
    }

    /// The first patch.
    pub fn first(&self) -> &'p Patch<'p> {
        self.first
    }

    /// The last patch, whose target is what the chain makes.
    pub fn last(&self) -> &'p Patch<'p> {
        self.rest.last().unwrap_or(self.first)
    }

    pub(crate) fn patches(&self) -> impl Iterator<Item = &'p Patch<'p>> + use<'p> {
        std::iter::once(self.first).chain(self.rest)
    }

    /// Whether none of the patches changes a state.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.patches().all(|patch| patch.kind() == Kind::Empty)
    }

    /// The layout of the target over a base of the layout `base`, and whether it is the publisher's.
    pub(crate) fn layout_over<'l>(&self, base: &'l Layout) -> (&'l Layout, bool)
    where
        'p: 'l,
    {
        self.patches().fold((base, true), |(layout, _), patch| patch.layout_over(layout))
    }

    /// The layout of the target, if it stands in a patch; else it is the base's.
    pub(crate) fn listed_layout(&self) -> Option<&'p Layout> {
        self.patches().filter_map(Patch::listed_layout).last()
    }

    /// Where the tensors lie in files of `layout`, which is that of the target.
    pub(crate) fn placement(
        &self,
        schema: &Schema,
        layout: &Layout,
        limits: &Limits,
    ) -> Result<Placement, ApplyError> {
        // The patch that lists the layout is the one to blame for it.
        let lists = self.patches().filter(|patch| patch.listed_layout().is_some()).last();
        lists.unwrap_or(self.first).placement(schema, layout, limits)
    }

    /// The chain as it applies to a base of the schema `base`, or to none.
    pub(crate) fn bind(self, base: Option<&'p Schema>) -> Result<BoundChain<'p>, ApplyError> {
        let mut bound: Vec<BoundPatch<'p>> = vec![self.first.bind(base)?];
        for patch in self.rest {
            let schema = bound.first().map(BoundPatch::schema);
            bound.push(patch.bind(schema)?);
        }
        let schema = self.first.listed_schema().or(base);
        let schema =
            schema.ok_or(ApplyError::Kind { found: self.first.kind(), needed: "a patch with a schema" })?;
        Ok(BoundChain { chain: self, schema, bound })
    }
}

/// A chain whose records fit the target's grid.
#[derive(Debug)]
pub(crate) struct BoundChain<'p> {
    chain: Chain<'p>,
    schema: &'p Schema,
    bound: Vec<BoundPatch<'p>>,
}

/// The records of one patch from some chunk on.
pub(crate) type Records<'a, 'p> = std::iter::Peekable<std::slice::Iter<'a, (ChunkRecord<'p>, LeafDigest)>>;

impl<'p> BoundChain<'p> {
    pub(crate) fn chain(&self) -> Chain<'p> {
        self.chain
    }

    /// The schema of the target.
    pub(crate) fn schema(&self) -> &'p Schema {
        self.schema
    }

    pub(crate) fn leaf_hash(&self) -> LeafHash {
        self.chain.first.leaf_hash()
    }

    /// How the codec is to see the chunks of a tensor, but for the profile, which is that of each patch.
    pub(crate) fn context(&self, tensor: TensorIndex) -> Option<ChunkContext> {
        Some(self.bound.first()?.context(tensor))
    }

    /// The records of each patch from the chunk `first` on.
    pub(crate) fn records_from(&self, first: Option<ChunkAddress>) -> Vec<Records<'_, 'p>> {
        self.bound.iter().map(|patch| patch.records_from(first).iter().peekable()).collect()
    }

    /// Whether a patch says anything about the chunk `address`. `records` are those from that chunk on.
    pub(crate) fn changes(&self, records: &mut [Records<'_, 'p>], address: ChunkAddress) -> bool {
        let speaks_of = |records: &mut Records<'_, 'p>| {
            records.peek().is_some_and(|(record, _)| record.address == address)
        };
        records.iter_mut().any(speaks_of)
    }

    /// Decodes what the patches make of the chunk `address` over the base's into `target`, and returns its
    /// digest; `None` if no patch says anything about it. `records` are those from that chunk on.
    ///
    /// Only what the last of them makes is hashed. What the others make shows in that, and what they were to
    /// make is in their indices.
    pub(crate) fn decode(
        &self,
        decoder: &mut ChunkDecoder,
        records: &mut [Records<'_, 'p>],
        address: ChunkAddress,
        base: Option<&[u8]>,
        target: &mut [u8],
    ) -> Result<Option<LeafDigest>, ApplyError> {
        let found = self.bound.iter().zip(records).filter_map(|(patch, records)| {
            Some((patch, records.next_if(|(record, _)| record.address == address)?))
        });
        let mut found = found.peekable();
        let mut passed = false;
        while let Some((patch, record)) = found.next() {
            let is_last = found.peek().is_none();
            match (is_last, passed) {
                (true, false) => return patch.decode(decoder, record, base, target).map(Some),
                (true, true) => return patch.decode_in_place(decoder, record, target).map(Some),
                (false, false) => patch.pass(decoder, record, base, target)?,
                (false, true) => patch.pass_in_place(decoder, record, target)?,
            }
            passed = true;
        }
        Ok(None)
    }

    /// Says that the base, and what each patch makes, are what the patches say. `base` is the leaf table of
    /// the base, if there is one, and `target` that of the target.
    ///
    /// The states in between are known by the digests that the indices give for their chunks, without their
    /// bytes: whatever a patch made of a chunk that another then altered, the target is what was hashed.
    pub(crate) fn check(
        &self,
        base: Option<(&State<'_>, &LeafTable)>,
        continuation: &Continuation,
        target: &LeafTable,
    ) -> Result<(), ApplyError> {
        let Some((last, earlier)) = self.bound.split_last() else { return Ok(()) };
        if let Some((base, leaves)) = base {
            self.chain.first.check_base(leaves.state_digest(base.schema()))?;
        }
        if !earlier.is_empty() {
            let mut between = LeafTable::empty(self.schema, self.leaf_hash());
            for address in self.schema.grid() {
                let same = continuation.base_chunk(address).zip(base);
                if let Some(leaf) = same.and_then(|(address, (_, leaves))| leaves.get(address)) {
                    between.set(address, leaf);
                }
            }
            let mut ends: Option<&BoundPatch<'_>> = None;
            for patch in earlier {
                if let Some(before) = ends {
                    patch.patch().check_base(before.patch().target_digest())?;
                }
                patch.records().iter().for_each(|(record, leaf)| between.set(record.address, *leaf));
                patch.check_target(between.state_digest(self.schema))?;
                ends = Some(patch);
            }
            if let Some(before) = ends {
                last.patch().check_base(before.patch().target_digest())?;
            }
        }
        last.check_target(target.state_digest(self.schema))
    }
}
