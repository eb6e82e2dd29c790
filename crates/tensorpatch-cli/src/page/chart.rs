//! Bars over versions, on a linear or a logarithmic scale.
//!
//! The shapes are SVG that is stretched to the room there is; the words are HTML, so that they stay legible
//! on a phone.

use std::fmt::Write as _;

use super::html::text;
use crate::output::size;

/// The height of a plot in units of its own; a bar is one unit wide.
pub(super) const HEIGHT: f64 = 100.0;

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Of values that differ by orders of magnitude.
    Logarithmic,
}

/// One bar.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    /// What it stands for, in a word.
    pub(super) label: String,
    /// Bytes.
    pub(super) value: u64,
    /// Set apart from the others.
    pub(super) is_special: bool,
    /// What is said of it.
    pub(super) says: String,
}

/// A value that is drawn across all bars.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) label: String,
    pub(super) value: u64,
}

/// What lies between the axes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    /// An axis on which all values have room.
    pub(super) fn over(scale: Scale, values: impl Iterator<Item = u64>) -> Self {
        let (mut low, mut high) = (u64::MAX, 0);
        for value in values.filter(|value| *value > 0) {
            low = low.min(value);
            high = high.max(value);
        }
        let (low, high) = (low.min(high) as f64, high.max(1) as f64);
        match scale {
            Scale::Linear => Self { scale, low: 0.0, high: high * 1.05 },
            Scale::Logarithmic => {
                Self { scale, low: (low.max(1.0).log2() - 1.0).max(0.0), high: high.log2() + 0.5 }
            }
        }
    }

    /// The height of a value above the axis.
    pub(super) fn height(&self, value: u64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value as f64,
            Scale::Logarithmic => (value.max(1) as f64).log2(),
        };
        let span = (self.high - self.low).max(f64::MIN_POSITIVE);
        ((place - self.low) / span).clamp(0.0, 1.0) * HEIGHT
    }

    /// Round values to be written at the side, from the lowest to the highest.
    fn ticks(&self) -> Vec<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 64, or a size"
        )]
        match self.scale {
            Scale::Linear => {
                // A power of two, so that it is round in the units of sizes.
                let step = (self.high / 2.5).max(1.0).log2().floor().exp2();
                (0..8)
                    .map(|tick| (step * f64::from(tick)) as u64)
                    .filter(|tick| (*tick as f64) < self.high)
                    .collect()
            }
            Scale::Logarithmic => {
                let (low, high) = (self.low.ceil() as u32, self.high.floor().min(63.0) as u32);
                let step = (high.saturating_sub(low) / 4).max(1);
                (low..=high).rev().step_by(step as usize).map(|power| 1_u64 << power).collect()
            }
        }
    }
}

/// A round size without the zeros behind its point.
fn round(value: u64) -> String {
    let text = size(value);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// The plot: a side with values, the shapes, and below what the first and the last bar are. `shapes` is SVG
/// in units of bars and of [`HEIGHT`], from the top left.
pub(super) fn plot(id: &str, says: &str, axis: Axis, bars: usize, shapes: &str, ends: [&str; 2]) -> String {
    let mut side = String::new();
    let mut lines = String::new();
    for tick in axis.ticks() {
        let height = axis.height(tick);
        let _ = write!(side, "<span style=\"bottom:{height:.2}%\">{}</span>", round(tick));
        let y = HEIGHT - height;
        let _ = write!(lines, "<line class=\"grid\" x1=\"0\" x2=\"{bars}\" y1=\"{y:.2}\" y2=\"{y:.2}\"/>");
    }
    let [first, last] = ends.map(text);
    format!(
        "<div class=\"plot\" id=\"{id}\" tabindex=\"0\" role=\"img\" aria-label=\"{}\">\n\
         <div class=\"side\" aria-hidden=\"true\">{side}</div>\n\
         <svg viewBox=\"0 0 {bars} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{lines}{shapes}</svg>\n\
         <div class=\"ends\" aria-hidden=\"true\"><span>{first}</span><span>{last}</span></div>\n</div>\n\
         <output class=\"says\" for=\"{id}\" aria-live=\"polite\"></output>\n",
        text(says)
    )
}

/// A plot of bars, with rules across them.
pub(super) fn bars(id: &str, says: &str, scale: Scale, bars: &[Bar], rules: &[Rule]) -> String {
    let values = bars.iter().map(|bar| bar.value).chain(rules.iter().map(|rule| rule.value));
    let axis = Axis::over(scale, values);
    let mut shapes = String::new();
    for (place, bar) in bars.iter().enumerate() {
        // Something can be seen of whatever is not nothing.
        let height = if bar.value == 0 { 0.0 } else { axis.height(bar.value).max(0.6) };
        let class = if bar.is_special { "bar special" } else { "bar" };
        let _ = write!(
            shapes,
            "<rect class=\"{class}\" x=\"{:.2}\" y=\"{:.2}\" width=\"0.84\" height=\"{height:.2}\" data-says=\"{}\"/>",
            place as f64 + 0.08,
            HEIGHT - height,
            text(&bar.says)
        );
    }
    for rule in rules {
        let y = HEIGHT - axis.height(rule.value);
        let (count, label) = (bars.len(), text(&rule.label));
        let _ = write!(
            shapes,
            "<line class=\"rule\" x1=\"0\" x2=\"{count}\" y1=\"{y:.2}\" y2=\"{y:.2}\"><title>{label}</title></line>"
        );
    }
    let end = |bar: Option<&Bar>| bar.map(|bar| bar.label.clone()).unwrap_or_default();
    let (first, last) = (end(bars.first()), end(bars.last()));
    plot(id, says, axis, bars.len().max(1), &shapes, [&first, &last])
}

/// What the colours of a plot mean.
pub(super) fn legend(entries: &[(&str, &str)]) -> String {
    let entries: String = entries
        .iter()
        .map(|(class, what)| format!("<li><span class=\"key {class}\"></span>{what}</li>"))
        .collect();
    format!("<ul class=\"legend\">{entries}</ul>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_values_have_room_and_round_ticks_lie_between() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            for values in
                [vec![], vec![0], vec![1], vec![7, 7], vec![200_000, 67_000_000_000], vec![u64::MAX, 1]]
            {
                let axis = Axis::over(scale, values.iter().copied());
                for value in &values {
                    assert!((0.0..=HEIGHT).contains(&axis.height(*value)), "{scale:?} {values:?}");
                }
                let ticks = axis.ticks();
                assert!(!ticks.is_empty() && ticks.len() < 10, "{scale:?} {values:?}: {ticks:?}");
            }
        }
    }
}
