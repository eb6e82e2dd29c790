//! The chunks of a state, cut into spans that threads work on.

use tensorpatch_format::{CHUNK_BYTES, ChunkAddress, ChunkIndex, Schema, TensorIndex};

/// Bytes of the grid that a span covers at the least, unless it is the last (section 13): large enough that
/// handing spans around costs nothing, small enough that a few per thread fit a small memory.
const SPAN_BYTES: u64 = 8 * CHUNK_BYTES as u64;

/// The spans of a schema's grid. Their borders depend on the schema alone, so the blocks made from spans do
/// not depend on the number of threads.
#[derive(Debug)]
pub(crate) struct Spans<'a> {
    schema: &'a Schema,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    first: ChunkAddress,
    chunks: u64,
    bytes: u64,
}

impl<'a> Spans<'a> {
    pub(crate) fn new(schema: &'a Schema) -> Self {
        let mut spans: Vec<Span> = Vec::new();
        let mut open: Option<Span> = None;
        for address in schema.grid() {
            let bytes = chunk_len(schema, address) as u64;
            let span = open.get_or_insert(Span { first: address, chunks: 0, bytes: 0 });
            span.chunks += 1;
            span.bytes += bytes;
            if span.bytes >= SPAN_BYTES {
                spans.extend(open.take());
            }
        }
        spans.extend(open);
        Self { schema, spans }
    }

    pub(crate) fn schema(&self) -> &'a Schema {
        self.schema
    }

    pub(crate) fn all(&self) -> &[Span] {
        &self.spans
    }

    /// The chunks of span number `span`, in grid order.
    pub(crate) fn get(&self, span: usize) -> impl Iterator<Item = ChunkAddress> + '_ {
        let span = self.spans.get(span).copied();
        let chunks = span.map_or(0, |span| usize::try_from(span.chunks).unwrap_or(usize::MAX));
        span.into_iter().flat_map(|span| self.from(span.first)).take(chunks)
    }

    pub(crate) fn bytes(&self, span: usize) -> u64 {
        self.spans.get(span).map_or(0, |span| span.bytes)
    }

    fn from(&self, first: ChunkAddress) -> impl Iterator<Item = ChunkAddress> + '_ {
        let tensors = self.schema.tensors().iter().zip(0_u32..).skip(first.tensor.0 as usize);
        tensors.flat_map(move |(tensor, index)| {
            let start = if index == first.tensor.0 { first.chunk.0 } else { 0 };
            (start..tensor.chunk_count())
                .map(move |chunk| ChunkAddress { tensor: TensorIndex(index), chunk: ChunkIndex(chunk) })
        })
    }
}

/// The bytes of a chunk; 0 if there is no such chunk.
pub(crate) fn chunk_len(schema: &Schema, address: ChunkAddress) -> usize {
    let range = schema.get(address.tensor).and_then(|tensor| tensor.chunk_range(address.chunk));
    range.map_or(0, |range| usize::try_from(range.end - range.start).unwrap_or(CHUNK_BYTES))
}

#[cfg(test)]
mod tests {
    use tensorpatch_format::{Dtype, TensorSpec};

    use super::*;

    #[test]
    fn spans_cover_the_grid_in_order_and_exactly_once() {
        let u8s = |name: &str, len| TensorSpec::new(name, Dtype::new("U8").unwrap(), vec![len]).unwrap();
        let mib = CHUNK_BYTES as u64;
        let small = (0..100).map(|i| u8s(&format!("s{i:03}"), 100));
        let schema =
            Schema::new(small.chain([u8s("big", 20 * mib + 1), u8s("none", 0), u8s("t", 3 * mib)]).collect())
                .unwrap();
        let spans = Spans::new(&schema);
        let walked: Vec<_> =
            (0..spans.all().len()).flat_map(|span| spans.get(span).collect::<Vec<_>>()).collect();
        assert_eq!(walked, schema.grid().collect::<Vec<_>>());
        let bytes: u64 = (0..spans.all().len()).map(|span| spans.bytes(span)).sum();
        assert_eq!(bytes, schema.state_bytes());
        assert!(spans.all().iter().rev().skip(1).all(|span| span.bytes >= SPAN_BYTES));
    }
}
