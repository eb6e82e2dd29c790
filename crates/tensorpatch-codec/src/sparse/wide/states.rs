//! Serial streams side by side, one in each 64-bit lane.
#![expect(unsafe_code, reason = "vector instructions; compared with the portable steps in tests")]

use std::arch::x86_64::*;

use crate::sparse::stream::Serial;

/// As many as there are 64-bit lanes.
pub(super) const LANES: usize = 8;

/// One number for each lane.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Each(pub(super) [u64; LANES]);

impl Each {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(&self) -> __m512i {
        // SAFETY: 64 bytes, aligned to as many.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn of(lanes: __m512i) -> Self {
        let mut each = Self([0; LANES]);
        // SAFETY: 64 bytes, aligned to as many.
        unsafe { _mm512_store_si512(each.0.as_mut_ptr().cast(), lanes) };
        each
    }
}

/// The states of streams, their next words, and the addresses of those and of the ends.
#[derive(Clone, Copy)]
pub(super) struct States<'a> {
    pub(super) state: __m512i,
    /// Loaded when the word before was taken, since a state that must wait for memory holds up everything. 0 at the end.
    word: __m512i,
    next: __m512i,
    end: __m512i,
    /// The streams as they were when the addresses were taken.
    streams: [Serial<'a>; LANES],
}

impl<'a> States<'a> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(streams: [Serial<'a>; LANES]) -> Self {
        let words = streams.map(|stream| stream.words_left().as_ptr_range());
        let word =
            |of: &Serial<'_>| of.words_left().first().map_or(0, |word| u64::from(u32::from_le_bytes(*word)));
        Self {
            state: Each(streams.map(|stream| stream.state())).load(),
            word: Each(streams.each_ref().map(word)).load(),
            next: Each(words.clone().map(|words| words.start.expose_provenance() as u64)).load(),
            end: Each(words.map(|words| words.end.addr() as u64)).load(),
            streams,
        }
    }

    /// The streams as they are now.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn streams(&self) -> [Serial<'a>; LANES] {
        let (state, next) = (Each::of(self.state), Each::of(self.next));
        let mut streams = self.streams;
        for (i, stream) in streams.iter_mut().enumerate() {
            let bytes = next.0[i].wrapping_sub(stream.words_left().as_ptr().addr() as u64);
            let taken = usize::try_from(bytes / 4).unwrap_or(0);
            stream.skip_to(state.0[i], taken);
        }
        streams
    }

    /// [`Serial::consume`] in the lanes that `read`, where `rest` is what is left of the state; the others keep theirs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl")]
    pub(super) fn consume(&mut self, read: __mmask8, rest: __m512i, freq: __m512i, offset: __m512i) {
        let state = _mm512_add_epi64(_mm512_mullo_epi64(rest, freq), offset);
        self.state = _mm512_mask_mov_epi64(self.state, read, state);
        self.refill(read);
    }

    /// Takes words in those of the lanes that have small states.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    pub(super) fn refill(&mut self, read: __mmask8) {
        let small = _mm512_mask_cmplt_epu64_mask(read, self.state, _mm512_set1_epi64(1 << 32));
        let takes = _mm512_mask_cmplt_epu64_mask(small, self.next, self.end);
        let filled = _mm512_or_si512(_mm512_slli_epi64::<32>(self.state), self.word);
        self.state = _mm512_mask_mov_epi64(self.state, takes, filled);
        if takes == 0 {
            return;
        }
        self.next = _mm512_mask_add_epi64(self.next, takes, self.next, _mm512_set1_epi64(4));
        let more = _mm512_mask_cmplt_epu64_mask(takes, self.next, self.end);
        // SAFETY: the words before the end of a stream are four readable bytes each, and no others are read.
        let words = unsafe {
            _mm512_mask_i64gather_epi32::<1>(_mm256_setzero_si256(), more, self.next, std::ptr::null())
        };
        self.word = _mm512_mask_cvtepu32_epi64(self.word, takes, words);
    }
}
