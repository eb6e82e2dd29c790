//! The constants of the probability model: powers that integers cannot reach without error.
//!
//! A *level* counts quarter octaves of a hazard: level `c` stands for `2^((c - 80) / 4)` half-lives.

/// The number of levels; a rate is a level from 1 to 95, and 0 stands for no hazard at all.
pub(super) const LEVELS: usize = 96;

/// `round(2^15 · 2^(j/4))`.
pub(super) const QUARTERS: [u32; 4] = [32_768, 38_968, 46_341, 55_109];

/// `SURVIVAL[c] = round(2^16 · 2^-(2^((c - 80) / 4)))`: the chance to survive a hazard of level `c`.
pub(super) const SURVIVAL: [u32; LEVELS] = [
    65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536, 65_536,
    65_536, 65_536, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_534, 65_534, 65_534, 65_533, 65_533,
    65_532, 65_531, 65_530, 65_529, 65_528, 65_527, 65_525, 65_523, 65_520, 65_517, 65_514, 65_510, 65_505,
    65_499, 65_492, 65_483, 65_473, 65_461, 65_447, 65_431, 65_411, 65_387, 65_359, 65_325, 65_286, 65_238,
    65_182, 65_115, 65_036, 64_942, 64_830, 64_697, 64_540, 64_353, 64_132, 63_869, 63_559, 63_192, 62_757,
    62_245, 61_641, 60_931, 60_097, 59_120, 57_978, 56_650, 55_109, 53_331, 51_292, 48_968, 46_341, 43_400,
    40_144, 36_589, 32_768, 28_740, 24_590, 20_427, 16_384, 12_604, 9227, 6367, 4096, 2424, 1299, 619, 256,
    90, 26, 6,
];

/// `CHANGE_FROM[c - 1] = floor(2^32 · (1 - 2^-(2^((c - 80.5) / 4))))`: the least share of changes, in 2^-32,
/// that is nearer to level `c` than to `c - 1`. Only an encoder needs it.
pub(super) const CHANGE_FROM: [u32; LEVELS - 1] = [
    3096,
    3681,
    4378,
    5206,
    6192,
    7363,
    8757,
    10_413,
    12_384,
    14_727,
    17_514,
    20_827,
    24_768,
    29_455,
    35_028,
    41_655,
    49_537,
    58_909,
    70_056,
    83_311,
    99_073,
    117_819,
    140_110,
    166_620,
    198_145,
    235_634,
    280_217,
    333_234,
    396_281,
    471_256,
    560_416,
    666_442,
    792_526,
    942_462,
    1_120_759,
    1_332_782,
    1_584_907,
    1_884_717,
    2_241_226,
    2_665_151,
    3_169_230,
    3_768_608,
    4_481_283,
    5_328_648,
    6_336_122,
    7_533_909,
    8_957_891,
    10_650_685,
    12_662_897,
    15_054_604,
    17_897_100,
    21_274_959,
    25_288_461,
    30_056_440,
    35_719_624,
    42_444_534,
    50_428_026,
    59_902_543,
    71_142_181,
    84_469_615,
    100_263_967,
    118_969_617,
    141_105_957,
    167_277_958,
    198_187_319,
    234_643_803,
    277_576_050,
    328_040_869,
    387_229_468,
    456_468_483,
    537_212_857,
    631_026_643,
    739_546_758,
    864_423_565,
    1_007_231_336,
    1_169_341_376,
    1_351_751_590,
    1_554_869_530,
    1_778_252_501,
    2_020_319_617,
    2_278_067_494,
    2_546_843_213,
    2_820_252_141,
    3_090_296_409,
    3_347_839_057,
    3_583_451_329,
    3_788_610_754,
    3_957_076_027,
    4_086_106_124,
    4_177_095_625,
    4_235_270_229,
    4_268_384_902,
    4_284_810_527,
    4_291_732_409,
    4_294_137_548,
];

/// `LOG2[i] = round(2^12 · log2(1 + i / 64))`. Only an encoder needs it.
const LOG2: [u32; 65] = [
    0, 92, 182, 271, 358, 445, 530, 613, 696, 778, 858, 937, 1016, 1093, 1169, 1244, 1319, 1392, 1465, 1536,
    1607, 1677, 1746, 1814, 1882, 1949, 2015, 2080, 2145, 2208, 2272, 2334, 2396, 2457, 2518, 2578, 2637,
    2696, 2754, 2812, 2869, 2926, 2982, 3037, 3092, 3146, 3200, 3254, 3307, 3359, 3412, 3463, 3514, 3565,
    3615, 3665, 3715, 3764, 3812, 3861, 3908, 3956, 4003, 4050, 4096,
];

/// `log2(value)` in 2^-12, by linear interpolation; 0 for 0.
pub(super) fn log2(value: u64) -> u64 {
    let Some(exponent) = value.checked_ilog2() else { return 0 };
    let mantissa = (value << (63 - exponent)) >> 45 & 0x3_ffff;
    let (slot, within) = ((mantissa >> 12) as usize, mantissa & 0xfff);
    let low = u64::from(LOG2[slot]);
    let high = u64::from(LOG2[slot + 1]);
    (u64::from(exponent) << 12) + low + (((high - low) * within) >> 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "rounded values within range")]
    fn the_tables_hold_what_their_formulas_say() {
        let survival = |level: f64| (-(((level - 80.0) / 4.0).exp2())).exp2();
        for (c, &chance) in SURVIVAL.iter().enumerate() {
            assert_eq!(chance, (65_536.0 * survival(c as f64)).round() as u32, "level {c}");
        }
        for (c, &share) in CHANGE_FROM.iter().enumerate() {
            let expected = (4_294_967_296.0 * (1.0 - survival(c as f64 + 0.5))).floor() as u32;
            assert!(share.abs_diff(expected) <= 1, "level {}", c + 1);
        }
        for (j, &quarter) in QUARTERS.iter().enumerate() {
            assert_eq!(quarter, (32_768.0 * (j as f64 / 4.0).exp2()).round() as u32);
        }
        for (i, &log) in LOG2.iter().enumerate() {
            assert_eq!(log, (4096.0 * (1.0 + i as f64 / 64.0).log2()).round() as u32);
        }
    }

    #[test]
    fn the_logarithm_is_within_a_thousandth_of_a_bit() {
        for value in (1..5000).chain([1 << 40, (1 << 52) + 12_345_678, u64::MAX >> 8]) {
            let exact = (value as f64).log2() * 4096.0;
            assert!((log2(value) as f64 - exact).abs() < 4.1, "{value}");
        }
        assert_eq!(log2(0), 0);
    }
}
