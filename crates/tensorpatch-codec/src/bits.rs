//! Bit strings, filled from the least significant bit of each byte.

/// Appends bits to bytes.
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u64,
    len: u32,
}

impl<'a> BitWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, pending: 0, len: 0 }
    }

    /// Appends the low `len` bits of `value`, at most 32 and no others set.
    #[expect(clippy::cast_possible_truncation, reason = "the low byte of the pending bits")]
    pub(crate) fn put(&mut self, value: u32, len: u32) {
        self.pending |= u64::from(value) << self.len;
        self.len = self.len.saturating_add(len);
        while let Some(left) = self.len.checked_sub(8) {
            self.out.push(self.pending as u8);
            self.pending >>= 8;
            self.len = left;
        }
    }

    /// Fills the last byte up with zeros.
    pub(crate) fn finish(mut self) {
        if self.len > 0 {
            self.put(0, 8u32.saturating_sub(self.len));
        }
    }
}

/// Takes bits from bytes.
#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    /// The bytes that have not been taken into `pending`.
    rest: &'a [u8],
    total: usize,
    pending: u64,
    len: u32,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: bytes.len(), pending: 0, len: 0 }
    }

    fn refill(&mut self) {
        while self.len <= 56
            && let Some((&byte, rest)) = self.rest.split_first()
        {
            self.pending |= u64::from(byte) << self.len;
            self.rest = rest;
            self.len = self.len.saturating_add(8);
        }
    }

    /// The next `len` bits, at most 32; `None` if there are not as many.
    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left by the mask")]
    pub(crate) fn take(&mut self, len: u32) -> Option<u32> {
        self.refill();
        let left = self.len.checked_sub(len)?;
        let value = self.pending & low_bits(len);
        self.pending >>= len;
        self.len = left;
        Some(value as u32)
    }

    /// The number of zeros before the next one, which is taken too; `None` if there is no one, or more than
    /// `max` zeros.
    pub(crate) fn zeros(&mut self, max: u32) -> Option<u32> {
        let mut zeros = 0u32;
        loop {
            self.refill();
            if self.pending != 0 {
                let run = self.pending.trailing_zeros();
                self.pending = (self.pending >> run) >> 1;
                self.len = self.len.saturating_sub(run.saturating_add(1));
                zeros = zeros.checked_add(run)?;
                return (zeros <= max).then_some(zeros);
            }
            zeros = zeros.checked_add(self.len)?;
            self.len = 0;
            if self.rest.is_empty() || zeros > max {
                return None;
            }
        }
    }

    /// The bytes that hold what was taken, if the bits that fill the last one are zero.
    pub(crate) fn whole_bytes(&self) -> Option<usize> {
        let filling = self.pending & low_bits(self.len % 8);
        let left = self.rest.len().checked_add(self.len as usize / 8)?;
        self.total.checked_sub(left).filter(|_| filling == 0)
    }
}

/// A mask of the low `len` bits, at most 63.
pub(crate) fn low_bits(len: u32) -> u64 {
    !(u64::MAX << len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back_in_order() {
        let mut out = Vec::new();
        let mut writer = BitWriter::new(&mut out);
        for (value, len) in [(5, 3), (0, 1), (u32::MAX, 32), (0, 0), (1, 17), (0x1234, 13)] {
            writer.put(value, len);
        }
        writer.finish();
        let mut reader = BitReader::new(&out);
        for (value, len) in [(5, 3), (0, 1), (u32::MAX, 32), (0, 0), (1, 17), (0x1234, 13)] {
            assert_eq!(reader.take(len), Some(value));
        }
        assert_eq!(reader.whole_bytes(), Some(out.len()));
        assert_eq!(reader.take(8), None);
    }

    #[test]
    fn runs_of_zeros_are_counted_across_words_and_bounded() {
        let mut bytes = vec![0; 20];
        bytes.push(4);
        assert_eq!(BitReader::new(&bytes).zeros(162), Some(162));
        assert_eq!(BitReader::new(&bytes).zeros(161), None);
        assert_eq!(BitReader::new(&bytes[..20]).zeros(1000), None);
    }
}
