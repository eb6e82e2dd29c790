//! Stands where no level has wide vectors.

use crate::element::Element;
use crate::kernels::Survey;
use crate::level::Level;

use super::bits::BitWriter;
use super::block::Block;
use super::cold::ColdChanges;
use super::lengths::{Chance, Lengths};
use super::rans::{States, Steps};
use super::source::Source;
use super::symbols::Symbols;

#[derive(Debug, Default)]
pub(super) struct Scratch;

/// There is none.
#[derive(Debug, Clone, Copy)]
pub(super) enum Simd {}

#[expect(clippy::too_many_arguments, reason = "those of the levels that have vectors")]
impl Simd {
    pub(super) fn of_level<T: Element>(_level: Level) -> Option<Self> {
        None
    }

    pub(super) fn new<T: Element>(_level: Level, _lanes: usize) -> Option<Self> {
        None
    }

    pub(super) fn find_cold(
        self,
        _source: &mut Source<'_>,
        _lengths: &Lengths,
        _block: &[u8],
        _survey: &Survey,
        _scratch: &mut Scratch,
        _changed: &mut Vec<u16>,
    ) -> Option<()> {
        match self {}
    }

    pub(super) fn moves(
        self,
        _source: &mut Source<'_>,
        _lengths: &Lengths,
        _symbols: &Symbols,
        _block: &mut [u8],
        _positions: &[u16],
        _scratch: &mut Scratch,
    ) -> Option<()> {
        match self {}
    }

    pub(super) fn dense(
        self,
        _source: &mut Source<'_>,
        _lengths: &Lengths,
        _symbols: &Symbols,
        _block: &mut [u8],
    ) -> Option<()> {
        match self {}
    }

    pub(super) fn find_changes(
        self,
        _lengths: &Lengths,
        _symbols: &Symbols,
        _block: Block<'_>,
        _survey: &mut Survey,
        _changed: &[u16],
        _cold: &mut ColdChanges,
    ) {
        match self {}
    }

    pub(super) fn put_flags(self, _chance: Chance, _sums: &[u16], _changed: &[u16], _steps: &mut Steps) {
        match self {}
    }

    pub(super) fn put_moves(
        self,
        _lengths: &Lengths,
        _symbols: &Symbols,
        _block: Block<'_>,
        _positions: &[u16],
        _values: &mut [Vec<u16>; 2],
        _steps: &mut Steps,
        _plain: &mut BitWriter,
    ) {
        match self {}
    }

    pub(super) fn put_dense(
        self,
        _lengths: &Lengths,
        _symbols: &Symbols,
        _block: Block<'_>,
        _values: &mut [Vec<u16>; 2],
        _steps: &mut Steps,
        _plain: &mut BitWriter,
    ) {
        match self {}
    }

    pub(super) fn put(
        self,
        _states: &mut States,
        _starts: &[u16],
        _freqs: &[u16],
        _bits: u32,
        _words: &mut [u16],
    ) -> usize {
        match self {}
    }
}
