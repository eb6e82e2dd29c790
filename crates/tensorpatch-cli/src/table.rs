//! Tables that fit the terminal: of a narrow one, the columns that say least are left out.

/// What stands between two columns.
const GAP: &str = "  ";
/// A column that is cut keeps at least so many characters.
const LEAST: usize = 8;

/// A column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    heading: &'static str,
    cells: Vec<String>,
    is_left: bool,
    /// Columns with a higher rank are left out first; those of rank 0 never are.
    rank: u8,
}

impl Column {
    /// A column of numbers, aligned to the right.
    pub(crate) fn right(heading: &'static str, rank: u8, cells: impl Iterator<Item = String>) -> Self {
        Self { heading, cells: cells.collect(), is_left: false, rank }
    }

    /// A column of words, aligned to the left; the last one of a table may be cut.
    pub(crate) fn left(heading: &'static str, rank: u8, cells: impl Iterator<Item = String>) -> Self {
        Self { heading, cells: cells.collect(), is_left: true, rank }
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        cells.chain([self.heading.len()]).max().unwrap_or_default()
    }

    /// Whether no cell says anything.
    fn is_blank(&self) -> bool {
        self.cells.iter().all(|cell| cell.is_empty() || cell == "-")
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
    let line = |cell: &dyn Fn(&Column) -> String| {
        let cells: Vec<String> =
            columns.iter().zip(&widths).map(|(column, width)| column.line(&cell(column), *width)).collect();
        cells.join(GAP)
    };
    let mut lines = vec![line(&|column| column.heading.to_owned())];
    lines.extend((0..rows).map(|row| line(&|column| column.cells.get(row).cloned().unwrap_or_default())));
    lines
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
