//! Columns that line up, by the width that a terminal gives each character. Pure.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use crate::sanitize::one_line;

/// A cell is cut at this width, with an ellipsis; the last column is not.
const MAX_WIDTH: usize = 40;

/// A table that may be printed in parts: columns keep the widths that the first part gave them.
pub struct Table {
    headers: &'static [&'static str],
    widths: Vec<usize>,
    /// The least width of the first column.
    first: usize,
}

impl Table {
    /// A table with these columns.
    pub fn new(headers: &'static [&'static str]) -> Self {
        Self { headers, widths: Vec::new(), first: 0 }
    }

    /// Numbers up to `largest` stand in the first column, also where the first part has only small ones.
    pub fn counting_to(self, largest: i32) -> Self {
        Self { first: largest.to_string().len(), ..self }
    }

    /// The next rows as text, under the headers where they are the first. Cells may hold anything: control
    /// characters are made visible.
    pub fn rows(&mut self, rows: Vec<Vec<String>>) -> String {
        let last = self.headers.len().saturating_sub(1);
        let safe = |(column, cell): (usize, &String)| {
            let cell = one_line(cell);
            if column < last { cut(&cell) } else { cell }
        };
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().enumerate().map(safe).collect()).collect();
        let mut out = String::new();
        if self.widths.is_empty() {
            self.widths = self.headers.iter().map(|header| header.width()).collect();
            for row in &rows {
                for (width, cell) in self.widths.iter_mut().zip(row) {
                    *width = (*width).max(cell.width());
                }
            }
            if let Some(width) = self.widths.first_mut() {
                *width = (*width).max(self.first);
            }
            let headers: Vec<String> = self.headers.iter().map(|&header| header.to_owned()).collect();
            self.row(&headers, &mut out);
        }
        for row in &rows {
            self.row(row, &mut out);
        }
        out
    }

    fn row(&self, cells: &[String], out: &mut String) {
        let start = out.len();
        for (cell, width) in cells.iter().zip(&self.widths) {
            if out.len() > start {
                out.push_str("  ");
            }
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}

fn cut(cell: &str) -> String {
    if cell.width() <= MAX_WIDTH {
        return cell.to_owned();
    }
    let mut out = String::new();
    let mut width = 0;
    for character in cell.chars() {
        width += character.width().unwrap_or(0);
        if width >= MAX_WIDTH {
            break;
        }
        out.push(character);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_line_up_and_later_parts_keep_the_widths() {
        let mut table = Table::new(&["ID", "NAME", "END"]);
        let first = table.rows(vec![
            vec!["1".into(), "万相".into(), "x".into()],
            vec!["10".into(), "a".into(), String::new()],
        ]);
        assert_eq!(first, "ID  NAME  END\n1   万相  x\n10  a\n");
        assert_eq!(table.rows(vec![vec!["2".into(), "b\n".into(), "y".into()]]), "2   b␊    y\n");
    }

    #[test]
    fn numbers_of_later_parts_have_their_place() {
        let mut table = Table::new(&["N", "NAME"]).counting_to(1000);
        assert_eq!(table.rows(vec![vec!["1".into(), "a".into()]]), "N     NAME\n1     a\n");
        assert_eq!(table.rows(vec![vec!["1000".into(), "b".into()]]), "1000  b\n");
    }

    #[test]
    fn a_cell_of_many_characters_without_a_width_is_cut_at_once() {
        let text = cut(&("\u{300}".repeat(1 << 16) + &"x".repeat(60)));
        assert!(text.ends_with("x…"));
    }

    #[test]
    fn long_cells_are_cut() {
        let text = cut(&"万".repeat(60));
        assert!(text.width() <= MAX_WIDTH && text.ends_with('…'));
    }
}
