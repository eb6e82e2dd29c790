//! Reading fields off a window of a file, each failure with the field's absolute offset.

use crate::{Error, Violation};

/// A cursor over bytes that start at `offset` of the whole file.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn remaining(&self) -> u64 {
        self.rest.len() as u64
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: u64, field: &'static str) -> Result<&'a [u8], Error> {
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((taken, rest)) = split else {
            let needed = len.saturating_sub(self.remaining());
            return Err(Error::new(Violation::Truncated { needed }, field, self.offset));
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(len);
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, field)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of things that take at least `min_bytes` each, so that a false count cannot outgrow the bytes present.
    pub(crate) fn check_count(
        &self,
        count: u64,
        min_bytes: u64,
        field: &'static str,
        offset: u64,
    ) -> Result<(), Error> {
        let least = count.saturating_mul(min_bytes);
        if least > self.remaining() {
            let needed = least.saturating_sub(self.remaining());
            return Err(Error::new(Violation::Truncated { needed }, field, offset));
        }
        Ok(())
    }

    /// Says that nothing may be left.
    pub(crate) fn finish(&self, field: &'static str) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("{} bytes too many", self.rest.len()), field, self.offset))
    }
}
