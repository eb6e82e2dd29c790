//! Files put together by hand, so that they can break any rule and still have the right checksums.

use crate::plan::Plan;

/// A patch as bytes of its parts; the checksums, and the two offsets in the trailer, are made when it is
/// written.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) header: Vec<u8>,
    pub(crate) sections: Vec<(u8, Vec<u8>)>,
    pub(crate) trailer: Vec<u8>,
    /// Added to the offset of the index and to the file length.
    pub(crate) false_index_offset: u64,
    pub(crate) false_file_len: u64,
}

impl Raw {
    pub(crate) fn of(plan: &Plan) -> Self {
        let mut parts = plan.parts();
        let header = parts.remove(0);
        let last = parts.pop().unwrap();
        let (index, trailer) = last.split_at(last.len() - 192);
        let trailer = trailer.to_vec();
        parts.push(index.to_vec());
        let sections = parts.iter().map(|section| (section[0], section[16..].to_vec())).collect();
        Self { header, sections, trailer, false_index_offset: 0, false_file_len: 0 }
    }

    /// Where a section starts in the file.
    pub(crate) fn at(&self, section: usize) -> u64 {
        32 + self.sections[..section].iter().map(|(_, payload)| 16 + payload.len() as u64).sum::<u64>()
    }

    pub(crate) fn trailer_at(&self) -> u64 {
        self.at(self.sections.len())
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = self.header[..28].to_vec();
        file.extend(crc32fast::hash(&file).to_le_bytes());
        for (kind, payload) in &self.sections {
            let len = (payload.len() as u64).to_le_bytes();
            let crc = crc32fast::hash(&[&[*kind, 0, 0, 0], &len[..], payload].concat());
            file.extend([&[*kind, 0, 0, 0], &crc.to_le_bytes()[..], &len, payload].concat());
        }
        let index = self.at(self.sections.len() - 1);
        let len = file.len() as u64 + 192;
        let mut trailer = self.trailer[..160].to_vec();
        trailer.extend(index.wrapping_add(self.false_index_offset).to_le_bytes());
        trailer.extend(len.wrapping_add(self.false_file_len).to_le_bytes());
        trailer.extend(&self.trailer[176..180]);
        let crc = crc32fast::hash(&[&file[..28], &trailer].concat());
        trailer.extend(crc.to_le_bytes());
        trailer.extend(&self.trailer[184..]);
        file.extend(trailer);
        file
    }
}
