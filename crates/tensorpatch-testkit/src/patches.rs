//! Small patch files with something of every part, built with the writer of the format.
//!
//! Their payloads mean nothing: they are for whatever reads a patch without decoding it.

use tensorpatch_format::{
    BlockBuilder, ChunkAddress, ChunkIndex, Encoding, Ends, FileLayout, Kind, Layout, LayoutDigest,
    LeafDigest, LeafHash, Listing, Packed, PatchHeader, PatchWriter, Profile, StateDigest, TensorIndex,
};

use crate::{FileStyle, Model, Tensor, header_bytes};

/// A delta, a full and an empty patch, each with a name.
pub fn sample_patches() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("delta", patch(Kind::Delta, Profile::Compact, LeafHash::Xxh3)),
        ("full", patch(Kind::Full, Profile::Direct, LeafHash::Blake3)),
        ("empty", patch(Kind::Empty, Profile::Compact, LeafHash::Xxh3)),
    ]
}

fn patch(kind: Kind, profile: Profile, hash: LeafHash) -> Vec<u8> {
    let model = Model::new(vec![
        Tensor::new("a.weight", "BF16", &[2, 2], vec![1; 8]),
        Tensor::new("b", "F32", &[], vec![2; 4]),
        Tensor::new("c", "U8", &[0], Vec::new()),
    ]);
    let header = header_bytes(&model.tensors().iter().collect::<Vec<_>>(), &FileStyle::default());
    let file = FileLayout { name: Layout::SINGLE_FILE.to_owned(), header };
    let layout = Layout::new(vec![file], None).unwrap();
    let is_full = kind == Kind::Full;
    let base_state = if is_full { StateDigest::NONE } else { StateDigest::from_bytes([1; 32]) };
    let base_layout = if is_full { LayoutDigest::NONE } else { layout.digest() };
    let ends = Ends {
        base_state,
        target_state: if kind == Kind::Empty { base_state } else { StateDigest::from_bytes([2; 32]) },
        target_schema: model.schema().digest(),
        base_layout,
        target_layout: layout.digest(),
    };
    let (schema_bytes, layout_bytes) = (model.schema().to_bytes(), layout.to_bytes());
    let listing = |bytes| if is_full { Listing::Listed(Packed::plain(bytes)) } else { Listing::Same };

    let header = PatchHeader::new(kind, profile, hash);
    let (writer, mut file) = PatchWriter::start(&header);
    let (writer, bytes) = writer.schema(&listing(&schema_bytes)).unwrap();
    file.extend(bytes);
    let (mut writer, bytes) = writer.layout(&listing(&layout_bytes)).unwrap();
    file.extend(bytes);
    if kind != Kind::Empty {
        for (tensor, payload) in (0..).zip([&model.tensors()[0].bytes, &model.tensors()[1].bytes]) {
            let address = ChunkAddress { tensor: TensorIndex(tensor), chunk: ChunkIndex(0) };
            let leaf = LeafDigest::from_bytes(hash, &vec![7; hash.digest_len()]).unwrap();
            let mut block = BlockBuilder::new(&header);
            block.push(address, Encoding::Raw, payload, leaf).unwrap();
            file.extend(writer.block(block.finish().unwrap()).unwrap());
        }
    }
    file.extend(writer.finish(&ends).unwrap().1);
    file
}

/// Makes every checksum of a patch right, as far as its sections can be followed.
///
/// Without it random damage ends at the first CRC32 and never sees what is checked behind it. Made from
/// sections 6 to 8 of the specification alone.
pub fn repair_checksums(file: &mut [u8]) {
    const HEADER: usize = 32;
    const HEAD: usize = 16;
    const TRAILER: usize = 192;
    const INDEX: u8 = 4;
    if file.len() < HEADER {
        return;
    }
    let crc = crc32fast::hash(&file[..28]);
    file[28..HEADER].copy_from_slice(&crc.to_le_bytes());
    let mut at = HEADER;
    while let Some(head) = file.get(at..at + HEAD) {
        let kind = head[0];
        let len = u64::from_le_bytes(head[8..].try_into().unwrap());
        let Some(end) = usize::try_from(len).ok().and_then(|len| (at + HEAD).checked_add(len)) else {
            return;
        };
        if end > file.len() {
            return;
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&file[at..at + 4]);
        crc.update(&file[at + 8..end]);
        let crc = crc.finalize();
        file[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at = end;
        if kind == INDEX {
            break;
        }
    }
    if file.len() >= at + TRAILER {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&file[..HEADER - 4]);
        crc.update(&file[at..at + 180]);
        let crc = crc.finalize();
        file[at + 180..at + 184].copy_from_slice(&crc.to_le_bytes());
    }
}
