//! The sparse encoding with AVX-512, for elements of two bytes: eight streams side by side.
#![expect(unsafe_code, reason = "calls of what needs the instructions of the level")]

mod classes;
mod cold;
mod hot;
mod put;
mod states;

use crate::element::Element;
use crate::kernels::BLOCK_BYTES;
use crate::level::{Kind, Level};

use super::chain::{Chain, LookUp, Parts};
use super::distance::SymbolTables;
use super::layout::STRIPS;
use super::payload::Stream;
use super::plan::{Lengths, Tables};
use super::stream::Writer;
use states::LANES;

pub(super) use cold::Packed;

/// That the instructions are there, and elements have two bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide(());

impl Wide {
    pub(super) fn new<T: Element>(level: Level) -> Option<Self> {
        (level.kind() == Kind::Avx512 && T::WIDTH == 2).then_some(Self(()))
    }

    /// [`super::chain::run`] for all strips in a whole block, and applied to it. `ahead` is where the next block lies.
    pub(super) fn cold(
        self,
        chains: &mut [Chain<'_>; STRIPS],
        look_up: LookUp<'_>,
        block: &mut [u8; BLOCK_BYTES],
        parts: &Parts,
        packed: &mut Packed,
        ahead: *const u8,
    ) -> Option<()> {
        // SAFETY: there is a `Wide` at the AVX-512 level alone, which has all these instructions.
        unsafe { cold::run(chains, look_up, block, parts, packed, ahead) }
    }

    /// Reads the symbols of `elements` from number `first` on, each from the stream with its number modulo that of the streams, eight or sixteen;
    /// and moves them. `None` if one cannot be moved so. Zeros are appended to `elements`.
    pub(super) fn hot(
        self,
        streams: &mut [Stream<'_>],
        first: usize,
        lengths: &Lengths,
        tables: &Tables,
        elements: &mut Vec<u16>,
    ) -> Option<()> {
        let range = first..elements.len();
        elements.resize(range.end.next_multiple_of(LANES), 0);
        let none = streams.first()?.serial;
        let mut lanes = [[none; LANES]; 2];
        for (lane, stream) in lanes.as_flattened_mut().iter_mut().zip(&*streams) {
            *lane = stream.serial;
        }
        // SAFETY: as above.
        unsafe {
            if streams.len() == LANES {
                hot::run::<1>(lanes.first_chunk_mut()?, lengths, tables, elements, range)?;
            } else {
                hot::run::<2>(&mut lanes, lengths, tables, elements, range)?;
            }
        }
        for (lane, stream) in lanes.as_flattened().iter().zip(streams) {
            stream.serial = *lane;
        }
        Some(())
    }

    /// Puts the symbols of moves from `olds` to `news`, as many, each into the stream with its number modulo that of the streams, eight or
    /// sixteen. Zeros are appended to both.
    pub(super) fn put_hot(
        self,
        writers: &mut [Writer],
        lengths: &Lengths,
        symbols: &SymbolTables,
        olds: &mut Vec<u16>,
        news: &mut Vec<u16>,
    ) {
        let len = olds.len();
        olds.resize(len.next_multiple_of(LANES), 0);
        news.resize(len.next_multiple_of(LANES), 0);
        // SAFETY: as above.
        unsafe {
            match writers.as_chunks_mut::<LANES>().0 {
                [one] => put::run(std::array::from_mut(one), lengths, symbols, olds, news, len),
                many => {
                    if let Some(two) = many.first_chunk_mut::<2>() {
                        put::run(two, lengths, symbols, olds, news, len);
                    }
                }
            }
        }
    }
}
