//! Bytes of a file that arrive in pieces.

use crate::Want;

/// Collects pieces of any size, in the order of the file, into the windows that a
/// [`ForwardReader`](crate::ForwardReader) wants. Holds no more than what has arrived and was not yet wanted.
///
/// ```
/// use tensorpatch_format::{Arrivals, Want};
///
/// let mut arrivals = Arrivals::new();
/// arrivals.push(b"ab");
/// assert_eq!(arrivals.window(Want { offset: 0, len: 3 }), None);
/// arrivals.push(b"cde");
/// assert_eq!(arrivals.window(Want { offset: 0, len: 3 }), Some(&b"abc"[..]));
/// assert_eq!(arrivals.rest(3), b"de");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Arrivals {
    bytes: Vec<u8>,
    /// Where `bytes` starts in the file.
    offset: u64,
}

impl Arrivals {
    /// Nothing has arrived yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The wanted bytes if all have arrived. Those before them are forgotten.
    pub fn window(&mut self, want: Want) -> Option<&[u8]> {
        let len = usize::try_from(want.len).ok()?;
        if self.after(want.offset).len() < len {
            return None;
        }
        self.forget(want.offset);
        self.bytes.get(..len)
    }

    /// All that has arrived from `offset` of the file on, for the end of the file.
    pub fn rest(&self, offset: u64) -> &[u8] {
        self.after(offset)
    }

    fn after(&self, offset: u64) -> &[u8] {
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.bytes.get(start..)).unwrap_or_default()
    }

    fn forget(&mut self, offset: u64) {
        let passed = self.bytes.len().saturating_sub(self.after(offset).len());
        self.bytes.drain(..passed);
        self.offset = self.offset.saturating_add(passed as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_passed_is_forgotten() {
        let mut arrivals = Arrivals::new();
        arrivals.push(&[1; 100]);
        arrivals.push(&[2; 100]);
        assert_eq!(arrivals.window(Want { offset: 100, len: 50 }), Some(&[2; 50][..]));
        assert_eq!(arrivals.bytes.len(), 100);
        assert_eq!(arrivals.window(Want { offset: 150, len: 51 }), None);
        assert_eq!(arrivals.window(Want { offset: 0, len: 1 }), None);
        assert_eq!(arrivals.rest(190), [2; 10]);
        assert_eq!(arrivals.rest(201), []);
    }
}
