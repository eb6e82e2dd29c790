//! Stands where there is no AVX-512.

use crate::element::Element;
use crate::kernels::BLOCK_BYTES;
use crate::level::Level;

use super::chain::{Chain, LookUp, Parts};
use super::distance::SymbolTables;
use super::layout::STRIPS;
use super::payload::Stream;
use super::plan::{Lengths, Tables};
use super::stream::Writer;

#[derive(Debug, Default)]
pub(super) struct Packed;

/// There is none.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wide {}

impl Wide {
    pub(super) fn new<T: Element>(_level: Level) -> Option<Self> {
        None
    }

    pub(super) fn cold(
        self,
        _chains: &mut [Chain<'_>; STRIPS],
        _look_up: LookUp<'_>,
        _block: &mut [u8; BLOCK_BYTES],
        _parts: &Parts,
        _packed: &mut Packed,
        _ahead: *const u8,
    ) -> Option<()> {
        match self {}
    }

    pub(super) fn hot(
        self,
        _streams: &mut [Stream<'_>],
        _first: usize,
        _lengths: &Lengths,
        _tables: &Tables,
        _elements: &mut Vec<u16>,
    ) -> Option<()> {
        match self {}
    }

    pub(super) fn put_hot(
        self,
        _writers: &mut [Writer],
        _lengths: &Lengths,
        _symbols: &SymbolTables,
        _olds: &mut Vec<u16>,
        _news: &mut Vec<u16>,
    ) {
        match self {}
    }
}
