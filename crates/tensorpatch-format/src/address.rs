//! Chunk addresses as steps from the one before, the same in blocks and in the index (section 7.4).

use crate::bytes::{Reader, put_varint};
use crate::{ChunkAddress, ChunkIndex, Error, TensorIndex};

/// The least bytes of a coded address.
pub(crate) const MIN_ADDRESS_BYTES: u64 = 2;

/// Reads or writes the addresses of one block, in order. They ascend by construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressSteps {
    previous: Option<ChunkAddress>,
}

impl AddressSteps {
    pub(crate) fn read(&mut self, reader: &mut Reader<'_>) -> Result<ChunkAddress, Error> {
        let at = reader.offset();
        let step = reader.varint("tensor_step")?;
        let tensor = u64::from(self.previous.map_or(0, |previous| previous.tensor.0)).checked_add(step);
        let tensor = narrow(tensor, "tensor_step", at)?;
        let at = reader.offset();
        let chunk = reader.varint("chunk")?;
        let chunk = match self.previous {
            Some(previous) if step == 0 => {
                chunk.checked_add(u64::from(previous.chunk.0)).and_then(|sum| sum.checked_add(1))
            }
            _ => Some(chunk),
        };
        let chunk = narrow(chunk, "chunk", at)?;
        let address = ChunkAddress { tensor: TensorIndex(tensor), chunk: ChunkIndex(chunk) };
        self.previous = Some(address);
        Ok(address)
    }

    /// Appends `address`, or returns false if it does not come after the one before.
    #[must_use]
    pub(crate) fn put(&mut self, address: ChunkAddress, out: &mut Vec<u8>) -> bool {
        let (tensor, chunk) = (u64::from(address.tensor.0), u64::from(address.chunk.0));
        let (step, chunk) = match self.previous {
            None => (tensor, Some(chunk)),
            Some(previous) if previous.tensor == address.tensor => {
                let next = u64::from(previous.chunk.0).saturating_add(1);
                (0, chunk.checked_sub(next))
            }
            Some(previous) => match tensor.checked_sub(u64::from(previous.tensor.0)) {
                Some(step) => (step, Some(chunk)),
                None => (0, None),
            },
        };
        let Some(chunk) = chunk else { return false };
        put_varint(out, step);
        put_varint(out, chunk);
        self.previous = Some(address);
        true
    }
}

fn narrow(value: Option<u64>, field: &'static str, offset: u64) -> Result<u32, Error> {
    value
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| Error::invalid("over 32 bits: no state has that many", field, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(tensor: u32, chunk: u32) -> ChunkAddress {
        ChunkAddress { tensor: TensorIndex(tensor), chunk: ChunkIndex(chunk) }
    }

    #[test]
    fn ascending_addresses_round_trip() {
        let all = [(0, 0), (0, 1), (0, 7), (3, 0), (3, 1), (4, 9), (u32::MAX, 0), (u32::MAX, u32::MAX)];
        let mut steps = AddressSteps::default();
        let mut bytes = Vec::new();
        for (tensor, chunk) in all {
            assert!(steps.put(address(tensor, chunk), &mut bytes));
        }
        assert_eq!(&bytes[..8], [0, 0, 0, 0, 0, 5, 3, 0]);
        let mut reader = Reader::new(&bytes, 0);
        let mut steps = AddressSteps::default();
        for (tensor, chunk) in all {
            assert_eq!(steps.read(&mut reader).unwrap(), address(tensor, chunk));
        }
        reader.finish("addresses").unwrap();
    }

    #[test]
    fn an_address_that_does_not_ascend_is_not_written() {
        for (tensor, chunk) in [(2, 5), (2, 4), (1, 9)] {
            let mut steps = AddressSteps { previous: Some(address(2, 5)) };
            let mut bytes = Vec::new();
            assert!(!steps.put(address(tensor, chunk), &mut bytes), "{tensor} {chunk}");
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn an_address_over_32_bits_is_refused_at_its_field() {
        let steps = AddressSteps { previous: Some(address(1, u32::MAX)) };
        for (bytes, field, offset) in [
            (&[0, 0][..], "chunk", 8),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], "tensor_step", 7),
            (&[1, 0x80, 0x80, 0x80, 0x80, 0x10], "chunk", 8),
        ] {
            let error = steps.clone().read(&mut Reader::new(bytes, 7)).unwrap_err();
            assert_eq!((error.field, error.offset), (field, offset), "{error}");
        }
    }
}
