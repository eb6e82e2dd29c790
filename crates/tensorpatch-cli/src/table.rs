//! Tables that fit the terminal: of a narrow one, the columns that say least are left out.

/// What stands between two columns.
const GAP: &str = "  ";
/// Characters of the longest bar where there is room.
const BAR: usize = 20;
/// A column that is cut keeps at least so many characters.
const LEAST: usize = 8;

/// A column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    heading: &'static str,
    cells: Vec<String>,
    /// Values whose bars stand in place of cells, the longest as wide as there is room for.
    bars: Vec<f64>,
    is_left: bool,
    /// Columns with a higher rank are left out first; those of rank 0 never are.
    rank: u8,
}

impl Column {
    /// A column of numbers, aligned to the right.
    pub(crate) fn right(heading: &'static str, rank: u8, cells: impl Iterator<Item = String>) -> Self {
        Self { heading, cells: cells.collect(), bars: Vec::new(), is_left: false, rank }
    }

    /// A column of words, aligned to the left; the last one of a table may be cut.
    pub(crate) fn left(heading: &'static str, rank: u8, cells: impl Iterator<Item = String>) -> Self {
        Self { heading, cells: cells.collect(), bars: Vec::new(), is_left: true, rank }
    }

    /// A column of bars, for the end of a table.
    pub(crate) fn bars(rank: u8, values: impl Iterator<Item = f64>) -> Self {
        Self { heading: "", cells: Vec::new(), bars: values.collect(), is_left: true, rank }
    }

    /// What stands in a row, where there is room for `width` characters.
    fn cell(&self, row: usize, width: usize) -> String {
        match self.bars.get(row) {
            Some(value) => bar(*value, self.bars.iter().copied().fold(0.0, f64::max), width),
            None => self.cells.get(row).cloned().unwrap_or_default(),
        }
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        let bar = if self.bars.is_empty() { 0 } else { BAR };
        cells.chain([self.heading.len(), bar]).max().unwrap_or_default()
    }

    /// Whether no cell says anything.
    fn is_blank(&self) -> bool {
        self.bars.is_empty() && self.cells.iter().all(|cell| cell.is_empty() || cell == "-")
    }

    fn line(&self, cell: &str, width: usize) -> String {
        let cell = cut(cell, width);
        if self.is_left { format!("{cell:width$}") } else { format!("{cell:>width$}") }
    }
}

/// The lines of a table of at most `width` characters, if its columns of rank 0 are not wider. Columns
/// without anything in them are left out.
pub(crate) fn fitted(mut columns: Vec<Column>, width: usize) -> Vec<String> {
    columns.retain(|column| column.rank == 0 || !column.is_blank());
    let total = |columns: &[Column]| {
        let cells: usize = columns.iter().map(Column::width).sum();
        cells + GAP.len() * columns.len().saturating_sub(1)
    };
    let slack = |columns: &[Column]| match columns.last() {
        Some(last) if last.is_left => last.width().saturating_sub(LEAST.max(last.heading.len())),
        _ => 0,
    };
    while total(&columns) > width.saturating_add(slack(&columns)) {
        let Some(highest) = columns.iter().map(|column| column.rank).max().filter(|rank| *rank > 0) else {
            break;
        };
        columns.retain(|column| column.rank != highest);
    }
    let over = total(&columns).saturating_sub(width);
    let mut widths: Vec<usize> = columns.iter().map(Column::width).collect();
    if let Some(last) = widths.last_mut() {
        *last = last.saturating_sub(over.min(slack(&columns)));
    }
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or_default();
    let line = |cell: &dyn Fn(&Column, usize) -> String| {
        let cells: Vec<String> = columns
            .iter()
            .zip(&widths)
            .map(|(column, width)| column.line(&cell(column, *width), *width))
            .collect();
        cells.join(GAP)
    };
    let mut lines = vec![line(&|column, _| column.heading.to_owned())];
    lines.extend((0..rows).map(|row| line(&|column, width| column.cell(row, width))));
    lines
}

/// A bar for a value, in eighths of a character; `width` characters for the greatest.
fn bar(value: f64, greatest: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if value <= 0.0 || greatest <= 0.0 {
        return String::new();
    }
    let most = width.saturating_mul(8).max(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 8 times the width"
    )]
    let eighths = ((value / greatest * most as f64).round() as usize).clamp(1, most);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A text of at most `width` characters, with a mark where it was cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let cells =
            |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>().into_iter();
        vec![
            Column::right("n", 0, cells(&["1", "20"])),
            Column::left("kind", 0, cells(&["anchor", "delta"])),
            Column::right("seldom needed", 2, cells(&["1,000,000", "-"])),
            Column::left("blank", 1, cells(&["", "-"])),
            Column::left("label", 1, cells(&["", "a label that goes on"])),
        ]
    }

    #[test]
    fn bars_have_eighths_shrink_with_the_table_and_something_is_never_nothing() {
        assert_eq!(bar(0.0, 1.0, 20), "");
        assert_eq!(bar(1.0, 1.0, 20), "█".repeat(20));
        assert_eq!(bar(1e-9, 1.0, 20), "▏");
        assert_eq!(bar(0.5, 0.0, 20), "");
        let table = |width| {
            let names = ["a layer", "another layer"].map(str::to_owned).into_iter();
            fitted(vec![Column::left("layer", 0, names), Column::bars(1, [0.5, 1.0].into_iter())], width)
        };
        assert_eq!(table(usize::MAX)[2], format!("another layer  {}", "█".repeat(20)));
        assert_eq!(table(25)[1].trim_end(), format!("a layer        {}", "█".repeat(5)));
        assert_eq!(table(25)[2], format!("another layer  {}", "█".repeat(10)));
    }

    #[test]
    fn columns_that_say_least_go_first_and_the_last_is_cut() {
        let lines = fitted(columns(), usize::MAX);
        assert_eq!(lines[0].trim_end(), " n  kind    seldom needed  label");
        assert_eq!(lines[2], "20  delta               -  a label that goes on");
        let lines = fitted(columns(), 30);
        assert_eq!(lines[2], "20  delta   a label that goes…");
        assert!(lines.iter().all(|line| line.chars().count() <= 30), "{lines:?}");
        assert_eq!(fitted(columns(), 12)[1], " 1  anchor");
    }
}
