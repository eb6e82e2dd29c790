//! A payload, taken apart into its model and its streams.

use crate::CodecError;
use crate::bits::BitReader;
use crate::bytes::Reader;

use super::layout::{self, MAX_HOT_STREAMS, STRIPS, Streams};
use super::model::Model;
use super::stream::Serial;

/// Streams of hot symbols and of strips together.
const MAX_STREAMS: usize = MAX_HOT_STREAMS + STRIPS;

/// A payload, taken apart.
pub(super) struct Payload<'a> {
    pub(super) streams: Streams,
    pub(super) model: Model,
    /// The streams of the hot symbols; if there is but one stream, it is the first of them.
    pub(super) hot: Vec<Stream<'a>>,
    /// The streams of the strips.
    pub(super) strips: Vec<Stream<'a>>,
}

/// A stream, and where in the payload it lies.
#[derive(Clone, Copy)]
pub(super) struct Stream<'a> {
    pub(super) offset: usize,
    pub(super) serial: Serial<'a>,
}

impl Stream<'_> {
    pub(super) fn finish(&self) -> Result<(), CodecError> {
        self.serial.finish(self.offset)
    }
}

impl<'a> Payload<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, CodecError> {
        let mut bits = BitReader::new(payload);
        let streams = Streams::read(&mut bits).ok_or(CodecError::new("the payload is empty", 0))?;
        let model = Model::read(&mut bits)?;
        let taken =
            bits.whole_bytes().ok_or(CodecError::new("the classes are not filled up with zeros", 0))?;
        let mut reader = Reader::new(payload);
        reader.take(taken, "the classes are cut short")?;

        let (hot, strips) = match streams {
            Streams::One => (1, 0),
            Streams::Apart { hot } => {
                (if model.has_hot() { hot } else { 0 }, if model.has_cold() { STRIPS } else { 0 })
            }
        };
        let mut of_hot = None;
        if hot > 0 && strips > 0 {
            of_hot = Some(reader.varint(usize::MAX, "the length of the hot streams")?);
        }
        let mut shares = [0; MAX_STREAMS];
        let written = hot.saturating_sub(1).saturating_add(strips.saturating_sub(1));
        for share in shares.iter_mut().take(written) {
            *share = reader.varint(usize::MAX, "the length of a stream")?;
        }
        let rest = payload.len().saturating_sub(reader.offset());
        let of_hot = of_hot.unwrap_or(if hot > 0 { rest } else { 0 });
        let of_strips = rest
            .checked_sub(of_hot)
            .ok_or(CodecError::new("the hot streams are longer than the payload", reader.offset()))?;
        let (of_hot_shares, of_strip_shares) = shares.split_at(hot.saturating_sub(1));
        let hot = streams_of(&mut reader, hot, of_hot, of_hot_shares)?;
        let strips = streams_of(&mut reader, strips, of_strips, of_strip_shares)?;
        reader.finish("bytes after the last stream")?;
        Ok(Self { streams, model, hot, strips })
    }
}

/// The next `count` streams, which take `rest` bytes; `shares` tell how long each but the last is.
fn streams_of<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    mut rest: usize,
    shares: &[usize],
) -> Result<Vec<Stream<'a>>, CodecError> {
    let mut streams = Vec::with_capacity(count);
    for (i, left) in (1..=count).rev().enumerate() {
        let offset = reader.offset();
        let bad = CodecError::new("a stream is cut short", offset);
        let len = match shares.get(i) {
            Some(&share) if left > 1 => layout::take_share(share, rest, left).ok_or(bad)?,
            _ => rest,
        };
        streams.push(Stream { offset, serial: Serial::new(reader.take(len, bad.what)?, offset)? });
        rest = rest.checked_sub(len).ok_or(bad)?;
    }
    Ok(streams)
}
