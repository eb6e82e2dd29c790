//! A patch file as its parts, so that any of them can be false; the checksums and lengths are made when it is
//! written.

/// A section without its checksum.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    pub(crate) kind: u8,
    pub(crate) reserved: [u8; 3],
    /// Added to the length.
    pub(crate) false_len: u64,
    pub(crate) payload: Vec<u8>,
}

/// The parts of a file.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    /// The first 28 bytes.
    pub(crate) header: Vec<u8>,
    pub(crate) sections: Vec<Section>,
    /// The five digests.
    pub(crate) digests: [[u8; 32]; 5],
    pub(crate) trailer_reserved: u32,
    /// Added to the offset of the index and to the length of the file.
    pub(crate) false_index_offset: u64,
    pub(crate) false_file_len: u64,
    pub(crate) end_magic: [u8; 8],
}

impl Section {
    pub(crate) fn new(kind: u8, payload: Vec<u8>) -> Self {
        Self { kind, reserved: [0; 3], false_len: 0, payload }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = [self.kind, self.reserved[0], self.reserved[1], self.reserved[2]];
        let len = (self.payload.len() as u64).wrapping_add(self.false_len).to_le_bytes();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(&len);
        crc.update(&self.payload);
        [&head[..], &crc.finalize().to_le_bytes(), &len, &self.payload].concat()
    }
}

impl Raw {
    /// Where a section starts.
    pub(crate) fn at(&self, section: usize) -> u64 {
        32 + self.sections[..section].iter().map(|section| 16 + section.payload.len() as u64).sum::<u64>()
    }

    /// Where the payload of a section starts.
    pub(crate) fn payload_at(&self, section: usize) -> u64 {
        self.at(section) + 16
    }

    pub(crate) fn index(&self) -> usize {
        self.sections.len() - 1
    }

    pub(crate) fn trailer_at(&self) -> u64 {
        self.at(self.sections.len())
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = self.header.clone();
        file.extend(crc32fast::hash(&file).to_le_bytes());
        for section in &self.sections {
            file.extend(section.bytes());
        }
        let mut trailer = self.digests.concat();
        trailer.extend(self.at(self.index()).wrapping_add(self.false_index_offset).to_le_bytes());
        trailer.extend((self.trailer_at() + 192).wrapping_add(self.false_file_len).to_le_bytes());
        trailer.extend(self.trailer_reserved.to_le_bytes());
        let crc = crc32fast::hash(&[&file[..28], &trailer].concat());
        trailer.extend(crc.to_le_bytes());
        trailer.extend(self.end_magic);
        file.extend(trailer);
        file
    }
}

/// Unsigned LEB128.
pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}
