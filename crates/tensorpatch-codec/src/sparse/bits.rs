//! The bits of a payload, which are read from its end: most significant bit first.

use crate::bits::low_bits;

/// Bits in the order in which they will be read.
#[derive(Debug, Clone, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    len: u32,
}

impl BitWriter {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.len = 0;
    }

    /// Puts the low `len` bits of `value`, at most 32 and no others set.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "32 bits at a time")]
    pub(super) fn put(&mut self, value: u32, len: u32) {
        self.pending = self.pending << len | u64::from(value);
        self.len += len;
        if self.len >= 32 {
            self.len -= 32;
            self.bytes.extend_from_slice(&((self.pending >> self.len) as u32).to_be_bytes());
        }
    }

    /// As [`put`](Self::put), of at most 64 bits.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    pub(super) fn put_wide(&mut self, value: u64, len: u32) {
        if len > 32 {
            self.put((value >> 32) as u32, len - 32);
        }
        self.put(value as u32, len.min(32));
    }

    /// Puts all that `other` holds.
    #[expect(clippy::cast_possible_truncation, reason = "fewer than 32 bits are pending")]
    pub(super) fn append(&mut self, other: &Self) {
        for word in other.bytes.as_chunks().0 {
            self.put(u32::from_be_bytes(*word), 32);
        }
        self.put((other.pending & low_bits(other.len)) as u32, other.len);
    }

    /// Appends the bits as they stand at the end of a payload, filled up to a byte with zeros.
    #[expect(clippy::cast_possible_truncation, reason = "one byte at a time")]
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        let filled = self.len.next_multiple_of(8);
        let pending = self.pending << (filled - self.len);
        out.extend((0..filled).step_by(8).map(|shift| (pending >> shift) as u8));
        out.extend(self.bytes.iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::payload::{Input, PADDING};

    #[test]
    fn bits_come_back_from_the_end_in_the_order_they_were_put() {
        let values = [(5, 3), (0, 1), (u32::MAX, 32), (0, 0), (1, 17), (0x1234, 13), (1, 1)];
        let (mut all, mut part) = (BitWriter::default(), BitWriter::default());
        for &(value, len) in &values {
            part.put(value, len);
        }
        all.append(&part);
        all.append(&part);
        let mut bytes = Vec::new();
        all.finish(&mut bytes);
        assert_eq!(bytes.len(), (2 * 67_usize).div_ceil(8));
        let len = bytes.len();
        bytes.resize(len + PADDING, 0xff);
        let mut input = Input::new(&bytes, len);
        for &(value, len) in values.iter().chain(&values) {
            assert_eq!(input.bits(len), value);
        }
        assert!(input.is_used_up());
        assert_eq!(input.bits(1), 0, "the filling");
        assert!(input.is_used_up());
        input.bits(32);
        assert!(!input.is_used_up(), "beyond the start");
    }
}
