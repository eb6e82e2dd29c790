//! Which share of each layer changed in each step, as a heat map: a table whose cells are coloured.

use std::fmt::Write as _;

use tensorpatch::store::upkeep::StreamReport;

use super::html::{self, text};
use crate::output::{count, counted, percent};

/// Shades from the least to the greatest share; the style has as many.
const SHADES: usize = 8;

pub(super) fn figure(report: &StreamReport) -> Option<String> {
    if report.layers.is_empty() {
        let obstacle = report.steps_obstacle.as_ref()?;
        let about = format!("No weights could be compared: {}", text(obstacle));
        return Some(html::figure("layers", "Changed share by layer", &about, ""));
    }
    let share =
        |changed: u64, elements: u64| if elements == 0 { 0.0 } else { changed as f64 / elements as f64 };
    let elements = |place: usize| report.layers.get(place).map_or(0, |layer| layer.elements);
    let shares = report.steps.iter().flat_map(|step| step.changed.iter().flatten().enumerate());
    let scale = Scale::of(shares.map(|(place, changed)| share(*changed, elements(place))).collect());
    let mut table = "<table class=\"heat\">\n<thead><tr><th scope=\"col\">layer</th>".to_owned();
    for step in &report.steps {
        let _ = write!(table, "<th scope=\"col\">{}</th>", step.version);
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    for (place, layer) in report.layers.iter().enumerate() {
        let _ = write!(table, "<tr><th scope=\"row\" title=\"{0}\">{0}</th>", text(&layer.name));
        for step in &report.steps {
            match step.changed.as_ref().and_then(|changed| changed.get(place)) {
                Some(changed) => {
                    let share = share(*changed, layer.elements);
                    let _ = write!(
                        table,
                        "<td class=\"shade-{}\" title=\"{} of {} elements\">{}</td>",
                        scale.shade(share),
                        count(*changed),
                        count(layer.elements),
                        percent(*changed, layer.elements).trim_end_matches(" %")
                    );
                }
                None => table.push_str("<td title=\"not compared\">–</td>"),
            }
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</tbody>\n</table>\n");
    let scroll = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"layers-heading\">\n{table}</div>\n"
    );
    let obstacle =
        report.steps_obstacle.as_ref().map(|why| format!(" Then: {}.", text(why))).unwrap_or_default();
    let about = format!(
        "Percent of the elements of a layer that changed: {} and the newest {} steps. The stronger the colour, the \
         more{}; the table scrolls where it is larger than the screen.{obstacle}",
        counted(report.layers.len() as u64, "layer"),
        report.steps.len(),
        scale.told()
    );
    Some(html::figure("layers", "Changed share by layer and step", &about, &scroll))
}

/// Which share has which shade.
struct Scale {
    greatest: f64,
    /// The share from which on all have the strongest shade.
    full: f64,
}

impl Scale {
    /// One cell in twenty may be beyond the scale: a step that changed a layer as a whole would leave all
    /// others without colour.
    fn of(mut shares: Vec<f64>) -> Self {
        shares.sort_unstable_by(f64::total_cmp);
        let beyond = shares.len() / 20;
        let at = |back: usize| shares.iter().rev().nth(back).copied().unwrap_or(0.0);
        let (greatest, most) = (at(0), at(beyond));
        let is_outlier = most > 0.0 && greatest > 4.0 * most;
        Self { greatest, full: if is_outlier { most } else { greatest } }
    }

    /// By the square root of the share: small ones stay apart.
    fn shade(&self, share: f64) -> usize {
        if self.full <= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the shades"
        )]
        let shade = ((share / self.full).clamp(0.0, 1.0).sqrt() * SHADES as f64) as usize;
        shade.min(SHADES - 1)
    }

    fn told(&self) -> String {
        if self.full >= self.greatest {
            return String::new();
        }
        format!(", as strong as it gets from {:.3} % on", self.full * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_go_from_nothing_to_the_greatest_share() {
        let scale = Scale::of(vec![0.1, 0.05, 0.01, 0.0]);
        assert_eq!((scale.shade(0.0), scale.shade(0.1)), (0, SHADES - 1));
        assert!(scale.shade(0.01) > 0 && scale.shade(0.01) < scale.shade(0.05));
        assert_eq!(Scale::of(vec![0.0]).shade(0.0), 0);
        assert_eq!(scale.told(), "");
    }

    #[test]
    fn a_few_shares_that_are_far_above_the_others_leave_them_their_shades() {
        let mut shares: Vec<f64> = (0..40).map(|share| 0.005 + f64::from(share) * 1e-4).collect();
        shares.push(1.0);
        let scale = Scale::of(shares);
        assert_eq!((scale.shade(1.0), scale.shade(0.009)), (SHADES - 1, SHADES - 1));
        assert!(scale.shade(0.005) < SHADES - 1);
        assert_eq!(scale.told(), ", as strong as it gets from 0.880 % on");
    }
}
