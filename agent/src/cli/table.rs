//! Tables as Docker's command line prints them: columns three blanks apart and at least ten wide, the last one free.

/// Rows under headings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Characters that a column has at least.
    least: usize,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self::wide(headings, 10)
    }

    /// A table whose columns are at least so many characters wide.
    pub(crate) fn wide(headings: &[&str], least: usize) -> Self {
        Self {
            rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()],
            least,
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        print!("{self}");
    }

    fn width(&self, column: usize) -> usize {
        const GAP: usize = 3;
        let longest = self
            .rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max();
        (longest.unwrap_or_default() + GAP).max(self.least)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns).map(|column| self.width(column)).collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                if column + 1 == row.len() {
                    writeln!(f, "{cell}")?;
                } else {
                    write!(f, "{cell:width$}", width = widths[column])?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "NAME", "PORTS"]);
        table.row(["abcdefghijkl".to_owned(), "web".to_owned(), String::new()]);
        assert_eq!(
            table.to_string(),
            "ID             NAME      PORTS\nabcdefghijkl   web       \n"
        );
    }
}
