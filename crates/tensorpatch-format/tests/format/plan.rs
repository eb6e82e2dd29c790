//! A small patch with something of everything, built by hand.

use tensorpatch_format::*;

pub(crate) fn schema(tensors: &[(&str, &str, &[u64])]) -> Schema {
    let spec = |(name, dtype, shape): &(&str, &str, &[u64])| {
        TensorSpec::new(*name, Dtype::new(dtype).unwrap(), shape.to_vec()).unwrap()
    };
    Schema::new(tensors.iter().map(spec).collect()).unwrap()
}

pub(crate) fn layout() -> Layout {
    let header = b"\x02\0\0\0\0\0\0\0{}".to_vec();
    Layout::new(vec![FileLayout { name: Layout::SINGLE_FILE.into(), header }], None).unwrap()
}

pub(crate) fn at(tensor: u32, chunk: u32) -> ChunkAddress {
    ChunkAddress { tensor: TensorIndex(tensor), chunk: ChunkIndex(chunk) }
}

pub(crate) fn leaf(hash: LeafHash, byte: u8) -> LeafDigest {
    LeafDigest::from_bytes(hash, &vec![byte; hash.digest_len()]).unwrap()
}

/// One record of a block.
pub(crate) type Chunk = (ChunkAddress, Encoding, Vec<u8>);

/// A patch in terms of its parts.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) header: PatchHeader,
    pub(crate) base: Option<Schema>,
    pub(crate) target: Schema,
    pub(crate) list_schema: bool,
    pub(crate) list_layout: bool,
    pub(crate) blocks: Vec<Vec<Chunk>>,
}

impl Plan {
    /// A delta with the base's schema: b has three chunks, two blocks.
    pub(crate) fn delta() -> Self {
        let base = schema(&[("a", "BF16", &[3]), ("b", "U8", &[3, 1 << 20]), ("c", "F32", &[0])]);
        Self {
            header: PatchHeader::new(Kind::Delta, Profile::Compact, LeafHash::Xxh3),
            base: Some(base.clone()),
            target: base,
            list_schema: false,
            list_layout: false,
            blocks: vec![
                vec![
                    (at(0, 0), Encoding::Raw, vec![1, 2, 3, 4, 5, 6]),
                    (at(1, 0), Encoding::Sparse, vec![7; 9]),
                ],
                vec![(at(1, 2), Encoding::Xor, vec![8; 3])],
            ],
        }
    }

    /// A full patch with everything listed.
    pub(crate) fn full() -> Self {
        let target = schema(&[("a", "BF16", &[3]), ("b", "U8", &[2, 1 << 20])]);
        Self {
            header: PatchHeader::new(Kind::Full, Profile::Direct, LeafHash::Blake3),
            base: None,
            target,
            list_schema: true,
            list_layout: true,
            blocks: vec![
                vec![(at(0, 0), Encoding::Raw, vec![1, 2, 3, 4, 5, 6])],
                vec![(at(1, 0), Encoding::Zstd, vec![7; 9]), (at(1, 1), Encoding::Zstd, vec![])],
            ],
        }
    }

    /// A patch that says that nothing changed.
    pub(crate) fn empty() -> Self {
        let header = PatchHeader::new(Kind::Empty, Profile::Compact, LeafHash::Xxh3);
        Self { header, list_layout: true, blocks: Vec::new(), ..Self::delta() }
    }

    pub(crate) fn all() -> [Self; 3] {
        [Self::delta(), Self::full(), Self::empty()]
    }

    pub(crate) fn ends(&self) -> Ends {
        let full = self.header.kind == Kind::Full;
        let base_state = if full { StateDigest::NONE } else { StateDigest::from_bytes([1; 32]) };
        let target_state = match self.header.kind {
            Kind::Empty => base_state,
            _ => StateDigest::from_bytes([2; 32]),
        };
        let base_layout = if full { LayoutDigest::NONE } else { LayoutDigest::from_bytes([3; 32]) };
        let target_layout = if self.list_layout { layout().digest() } else { base_layout };
        Ends { base_state, target_state, target_schema: self.target.digest(), base_layout, target_layout }
    }

    pub(crate) fn block(&self, chunks: &[Chunk]) -> FinishedBlock {
        let mut builder = BlockBuilder::new(&self.header);
        for (address, encoding, payload) in chunks {
            builder
                .push(*address, *encoding, payload, leaf(self.header.leaf_hash, payload.len() as u8))
                .unwrap();
        }
        builder.finish().unwrap()
    }

    /// The parts of the file: header, SCHEMA, LAYOUT, each BLOCK, INDEX with trailer.
    pub(crate) fn parts(&self) -> Vec<Vec<u8>> {
        let (schema_bytes, layout_bytes) = (self.target.to_bytes(), layout().to_bytes());
        let listing = |listed, bytes| match listed {
            true => Listing::Listed(Packed::plain(bytes)),
            false => Listing::Same,
        };
        let (writer, bytes) = PatchWriter::start(&self.header);
        let mut parts = vec![bytes];
        let (writer, bytes) = writer.schema(&listing(self.list_schema, &schema_bytes)).unwrap();
        parts.push(bytes);
        let (mut writer, bytes) = writer.layout(&listing(self.list_layout, &layout_bytes)).unwrap();
        parts.push(bytes);
        for chunks in &self.blocks {
            parts.push(writer.block(self.block(chunks)).unwrap());
        }
        parts.push(writer.finish(&self.ends()).unwrap().1);
        parts
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        self.parts().concat()
    }

    pub(crate) fn grid(&self) -> Grid {
        Grid::new(&self.target, self.base.as_ref())
    }
}

/// Reads and checks a whole file as far as this crate can.
pub(crate) fn read<'a>(file: &'a [u8], grid: &Grid) -> Result<PatchView<'a>, Error> {
    let patch = PatchView::parse(file, &Limits::default())?;
    patch.check_grid(grid)?;
    Ok(patch)
}
