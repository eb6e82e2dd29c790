//! How far elements move.

use tensorpatch::store::upkeep::StreamReport;

use super::html::{self, numbers};
use crate::output::{count, percent};

pub(super) fn figure(report: &StreamReport) -> Option<String> {
    let longest =
        report.steps.iter().map(|step| step.distances.len()).max().filter(|longest| *longest > 0)?;
    let mut sums = vec![0_u64; longest];
    for step in &report.steps {
        for (sum, count) in sums.iter_mut().zip(&step.distances) {
            *sum = sum.saturating_add(*count);
        }
    }
    let all: u64 = sums.iter().fold(0, |all, sum| all.saturating_add(*sum));
    let most = sums.iter().copied().max().unwrap_or(0).max(1);
    let rows: String = sums
        .iter()
        .enumerate()
        .map(|(bucket, moved)| {
            let width = *moved as f64 / most as f64 * 100.0;
            format!(
                "<div><dt>{}</dt><dd><span class=\"meter\" style=\"width:{width:.2}%\"></span>\
                 <span>{}</span></dd></div>\n",
                distance(bucket),
                percent(*moved, all)
            )
        })
        .collect();
    let headings: Vec<String> = (0..longest).map(distance).collect();
    let headings: Vec<&str> = std::iter::once("version").chain(headings.iter().map(String::as_str)).collect();
    let numbers = numbers(
        "distances",
        &headings,
        report.steps.iter().rev().map(|step| {
            let counts = (0..longest).map(|bucket| count(step.distances.get(bucket).copied().unwrap_or(0)));
            std::iter::once(step.version.to_string()).chain(counts).collect()
        }),
    );
    let about = "By how many units of the last place (ulp) the changed elements moved: 1 is the next value that the \
                 dtype has.";
    Some(html::figure(
        "distances",
        "How far weights move",
        about,
        &format!("<dl class=\"meters\">\n{rows}</dl>\n{numbers}"),
    ))
}

/// `1`, `2`, `3–4`, `5–8`, … and from where the numbers are longer than people read, only the power of two
/// that is the end.
fn distance(bucket: usize) -> String {
    const WRITTEN_OUT: usize = 16;
    let high = 1_u64 << bucket.min(WRITTEN_OUT);
    match bucket {
        0 | 1 => high.to_string(),
        2..=WRITTEN_OUT => format!("{}–{high}", high / 2 + 1),
        _ => format!("to 2<sup>{bucket}</sup>"),
    }
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_are_powers_of_two() {
        assert_eq!([0, 1, 2, 3].map(distance), ["1", "2", "3–4", "5–8"]);
        assert_eq!([16, 17, 64].map(distance), ["32769–65536", "to 2<sup>17</sup>", "to 2<sup>64</sup>"]);
    }
}
