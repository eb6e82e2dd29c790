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
    /// How many of `bytes` are no longer wanted.
    passed: usize,
    /// Where the bytes after those start in the file.
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
        let start = self.place_of(want.offset)?;
        if self.bytes.len().checked_sub(start)? < len {
            return None;
        }
        self.forget(start, want.offset);
        self.bytes.get(self.passed..)?.get(..len)
    }

    /// All that has arrived from `offset` of the file on, for the end of the file.
    pub fn rest(&self, offset: u64) -> &[u8] {
        self.place_of(offset).and_then(|start| self.bytes.get(start..)).unwrap_or_default()
    }

    fn place_of(&self, offset: u64) -> Option<usize> {
        let ahead = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.passed.checked_add(ahead)
    }

    fn forget(&mut self, passed: usize, offset: u64) {
        self.offset = offset;
        // Moving the rest only when it is the smaller half keeps the cost in proportion to what arrives, even
        // if that is a whole file at once.
        if passed > self.bytes.len() / 2 {
            self.bytes.drain(..passed);
            self.passed = 0;
        } else {
            self.passed = passed;
        }
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
        assert_eq!(arrivals.window(Want { offset: 150, len: 51 }), None);
        assert_eq!(arrivals.window(Want { offset: 0, len: 1 }), None);
        assert_eq!(arrivals.window(Want { offset: 150, len: 50 }), Some(&[2; 50][..]));
        assert_eq!(arrivals.bytes.len(), 50);
        assert_eq!(arrivals.rest(190), [2; 10]);
        assert_eq!(arrivals.rest(201), []);
        // Not even an empty window is cut from where nothing is.
        assert_eq!(arrivals.window(Want { offset: 201, len: 0 }), None);
        assert_eq!(arrivals.window(Want { offset: 149, len: 0 }), None);
        assert_eq!(arrivals.window(Want { offset: 200, len: 0 }), Some(&[][..]));
        arrivals.push(&[3]);
        assert_eq!(arrivals.window(Want { offset: 200, len: 1 }), Some(&[3][..]));
    }

    #[test]
    fn windows_of_a_file_that_arrives_at_once_are_cut_in_its_order() {
        let file: Vec<_> = (0..=255_u8).collect();
        let mut arrivals = Arrivals::new();
        arrivals.push(&file);
        for (at, byte) in file.iter().enumerate() {
            let window = arrivals.window(Want { offset: at as u64, len: 1 }).unwrap();
            assert_eq!(window, [*byte]);
            assert!(arrivals.bytes.len() <= 2 * (256 - at) + 1);
        }
        assert_eq!(arrivals.rest(256), []);
    }
}
