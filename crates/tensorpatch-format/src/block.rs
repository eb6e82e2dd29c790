//! The records of consecutive chunks, and their payloads (section 7.4).

use crate::address::{AddressSteps, MIN_ADDRESS_BYTES};
use crate::bytes::Reader;
use crate::header::code;
use crate::{ChunkAddress, Encoding, Error, SectionHead};

/// The least bytes of a record's head: an address, an encoding, a length.
const MIN_HEAD_BYTES: u64 = MIN_ADDRESS_BYTES + 2;

/// A BLOCK section whose records have been read once and found sound by themselves.
///
/// Whether they are in the target's grid, and may have the encodings they have, is for [`Grid`](crate::Grid)
/// to say.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    offset: u64,
    record_count: u64,
    heads: Reader<'a>,
    payloads: Reader<'a>,
    end: u64,
}

/// How one chunk of the target is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkRecord<'a> {
    /// Which chunk.
    pub address: ChunkAddress,
    /// How the payload encodes it.
    pub encoding: Encoding,
    /// The payload.
    pub payload: &'a [u8],
    /// Where the payload starts in the file.
    pub payload_offset: u64,
    /// Where the record starts in the file; the place for errors about its address.
    pub offset: u64,
    /// Where its encoding stands in the file; the place for errors about it.
    pub encoding_offset: u64,
}

/// The records of a [`Block`], in order.
#[derive(Debug, Clone)]
pub struct ChunkRecords<'a> {
    left: u64,
    steps: AddressSteps,
    heads: Reader<'a>,
    payloads: Reader<'a>,
}

impl<'a> Block<'a> {
    /// Reads the payload of a BLOCK section.
    pub(crate) fn parse(head: &SectionHead, payload: &'a [u8]) -> Result<Self, Error> {
        let mut heads = Reader::new(payload, head.payload_offset());
        let at = heads.offset();
        let record_count = heads.varint("record_count")?;
        if record_count == 0 {
            return Err(Error::invalid("a block without a record", "record_count", at));
        }
        heads.check_count(record_count, MIN_HEAD_BYTES, "record_count", at)?;

        let mut payloads = heads.clone();
        let mut steps = AddressSteps::default();
        let mut payload_bytes = 0_u64;
        for _ in 0..record_count {
            let record = RecordHead::read(&mut steps, &mut payloads)?;
            payload_bytes = payload_bytes.saturating_add(record.payload_len);
        }
        if payload_bytes != payloads.remaining() {
            let message = format!(
                "the payload lengths add up to {payload_bytes} bytes, but {} are there",
                payloads.remaining()
            );
            return Err(Error::invalid(message, "payloads", payloads.offset()));
        }
        let end = head.payload_offset().saturating_add(payload.len() as u64);
        Ok(Self { offset: head.offset, record_count, heads, payloads, end })
    }

    /// Where the section starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the whole section.
    pub fn section_len(&self) -> u64 {
        self.end.saturating_sub(self.offset)
    }

    /// The number of records; at least 1.
    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    /// The records, in order.
    pub fn records(&self) -> ChunkRecords<'a> {
        ChunkRecords {
            left: self.record_count,
            steps: AddressSteps::default(),
            heads: self.heads.clone(),
            payloads: self.payloads.clone(),
        }
    }
}

impl<'a> IntoIterator for &Block<'a> {
    type Item = ChunkRecord<'a>;
    type IntoIter = ChunkRecords<'a>;

    fn into_iter(self) -> ChunkRecords<'a> {
        self.records()
    }
}

impl<'a> Iterator for ChunkRecords<'a> {
    type Item = ChunkRecord<'a>;

    fn next(&mut self) -> Option<ChunkRecord<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Block::parse has read these bytes in the same way without an error.
        let head = RecordHead::read(&mut self.steps, &mut self.heads).ok()?;
        let payload_offset = self.payloads.offset();
        let payload = self.payloads.take(head.payload_len, "payload").ok()?;
        Some(ChunkRecord {
            address: head.address,
            encoding: head.encoding,
            payload,
            payload_offset,
            offset: head.offset,
            encoding_offset: head.encoding_offset,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

struct RecordHead {
    offset: u64,
    address: ChunkAddress,
    encoding_offset: u64,
    encoding: Encoding,
    payload_len: u64,
}

impl RecordHead {
    fn read(steps: &mut AddressSteps, reader: &mut Reader<'_>) -> Result<Self, Error> {
        let offset = reader.offset();
        let address = steps.read(reader)?;
        let encoding_offset = reader.offset();
        let encoding = code(reader, "encoding", Encoding::from_code)?;
        let payload_len = reader.varint("payload_len")?;
        Ok(Self { offset, address, encoding_offset, encoding, payload_len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::section::seal;
    use crate::{ChunkIndex, ErrorClass, Limits, SectionKind, TensorIndex};

    fn parse(payload: &[u8]) -> Result<Block<'_>, Error> {
        let section = seal(SectionKind::Block, &[payload]);
        let head = SectionHead::from_bytes(section.first_chunk().unwrap(), 84, &Limits::default())?;
        Block::parse(&head, payload)
    }

    const TWO: [u8; 14] = [2, 7, 3, 4, 2, 0, 0, 5, 3, b'a', b'b', b'c', b'd', b'e'];

    #[test]
    fn records_are_yielded_with_slices_and_offsets() {
        let block = parse(&TWO).unwrap();
        assert_eq!((block.offset(), block.section_len(), block.record_count()), (84, 30, 2));
        let records: Vec<_> = block.records().collect();
        let address = |chunk| ChunkAddress { tensor: TensorIndex(7), chunk: ChunkIndex(chunk) };
        assert_eq!(records[0].address, address(3));
        assert_eq!((records[0].encoding, records[0].payload), (Encoding::Raw, &b"ab"[..]));
        assert_eq!(
            (records[0].offset, records[0].encoding_offset, records[0].payload_offset),
            (101, 103, 109)
        );
        assert_eq!(records[1].address, address(4));
        assert_eq!((records[1].encoding, records[1].payload), (Encoding::Zstd, &b"cde"[..]));
        assert_eq!(
            (records[1].offset, records[1].encoding_offset, records[1].payload_offset),
            (105, 107, 111)
        );
    }

    #[test]
    fn every_strict_prefix_is_invalid() {
        for len in 0..TWO.len() {
            assert_eq!(parse(&TWO[..len]).unwrap_err().class(), ErrorClass::Invalid, "{len}");
        }
    }

    #[test]
    fn each_rule_is_refused_at_its_field() {
        let refused = |payload: &[u8]| {
            let error = parse(payload).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Invalid, "{error}");
            (error.field, error.offset)
        };
        assert_eq!(refused(&[0]), ("record_count", 100));
        assert_eq!(refused(&[2, 0, 0, 4, 0]), ("record_count", 100));
        assert_eq!(refused(&[1, 0, 0, 6, 0]), ("encoding", 103));
        assert_eq!(refused(&[1, 0, 0, 0, 0]), ("encoding", 103));
        assert_eq!(refused(&[1, 0, 0, 4, 1]), ("payloads", 105));
        assert_eq!(refused(&[1, 0, 0, 4, 1, 9, 9]), ("payloads", 105));
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(refused(&[&max[..], &[0, 0, 4, 0]].concat()), ("record_count", 100));
        // Two lengths whose sum wraps around to the bytes present.
        let wrap = [&[2, 0, 0, 4][..], &max, &[0, 0, 4, 2, 9]].concat();
        assert_eq!(refused(&wrap).0, "payloads");
    }
}
