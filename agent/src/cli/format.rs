//! `--format` of lists: rows with named cells, as a table, as JSON lines, or through a template.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use super::table::Table;
use super::template::expand;

/// Flags that every list has.
#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Filter output based on conditions provided (e.g. "label=a")
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Format output: "table", "table TEMPLATE", "json" or a template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Only display IDs, or names of what has no ID
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl ListFlags {
    /// `ps` and `images` alone give `--quiet` precedence over a format, and say so.
    pub(crate) fn quiet_first(&mut self) {
        if self.quiet && self.format.take().is_some() {
            eprintln!("WARNING: Ignoring custom format, because both --format and --quiet are set.");
        }
    }
}

/// Rows with named cells.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Field and heading of each cell: first the columns of the table.
    cells: Vec<(&'static str, &'static str)>,
    /// So many of them are in the table; only a template shows the others.
    shown: usize,
    rows: Vec<Map<String, Value>>,
}

impl Listing {
    /// An empty list with these columns: the field's name in templates, and the heading.
    pub(crate) fn new(columns: &[(&'static str, &'static str)]) -> Self {
        Self {
            cells: columns.to_vec(),
            shown: columns.len(),
            rows: Vec::new(),
        }
    }

    /// Adds fields that only a template shows.
    pub(crate) fn more(mut self, fields: &[(&'static str, &'static str)]) -> Self {
        self.cells.extend(fields);
        self
    }

    /// Adds a row: a cell for each column, then one for each further field.
    pub(crate) fn row<C: Into<Value>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let fields = self.cells.iter().map(|(field, _)| (*field).to_owned());
        self.rows
            .push(fields.zip(cells.into_iter().map(Into::into)).collect());
    }

    /// Prints the rows as the flags say; as a table if they say nothing.
    ///
    /// # Errors
    /// A template that is not understood.
    pub(crate) fn print(self, flags: &ListFlags) -> Result<()> {
        let format = flags.format.as_deref();
        if flags.quiet && matches!(format.map_or("", str::trim), "" | "table") {
            print!("{}", self.names());
            return Ok(());
        }
        self.print_as(format)
    }

    /// As [`Listing::print`], of a list that has no `--quiet`.
    ///
    /// # Errors
    /// A template that is not understood.
    pub(crate) fn print_as(self, format: Option<&str>) -> Result<()> {
        print!("{}", self.text(format)?);
        Ok(())
    }

    /// The rows' IDs, a line each, or the names of what has no ID.
    fn names(&self) -> String {
        let has_id = self.cells.iter().any(|(field, _)| *field == "ID");
        let field = if has_id { "ID" } else { "Name" };
        let name = |row: &Map<String, Value>| row[field].as_str().unwrap_or_default().to_owned() + "\n";
        self.rows.iter().map(name).collect()
    }

    fn text(self, format: Option<&str>) -> Result<String> {
        match format.map_or("table", str::trim) {
            "" | "table" => Ok(self.plain_table()),
            "json" => Ok(self.rows.into_iter().map(json_line).collect()),
            format => match format.strip_prefix("table ") {
                Some(template) => self.table(template),
                None => {
                    let rows = self.rows.into_iter().map(Value::Object);
                    rows.map(|row| Ok(expand(format, &row)? + "\n")).collect()
                }
            },
        }
    }

    fn plain_table(self) -> String {
        let columns = &self.cells[..self.shown];
        let headings: Vec<&str> = columns.iter().map(|(_, heading)| *heading).collect();
        let mut table = Table::new(&headings);
        for row in &self.rows {
            let cell = |(field, _): &(&str, &str)| row[*field].as_str().unwrap_or_default().to_owned();
            table.row(columns.iter().map(cell));
        }
        table.to_string()
    }

    /// `table {{.Name}}\t{{.Image}}`: the columns are what stands between the tabs.
    fn table(self, template: &str) -> Result<String> {
        let headings = self.cells.iter();
        let headings = headings.map(|(field, heading)| ((*field).to_owned(), Value::from(*heading)));
        let headings = expand(template, &Value::Object(headings.collect()))?;
        let mut table = Table::new(&headings.split('\t').collect::<Vec<_>>());
        for row in self.rows.into_iter().map(Value::Object) {
            table.row(expand(template, &row)?.split('\t').map(str::to_owned));
        }
        Ok(table.to_string())
    }
}

/// Go writes these three so in JSON, and a script may compare texts.
fn json_line(row: Map<String, Value>) -> String {
    let row = Value::Object(row).to_string();
    let row = row.replace('<', "\\u003c").replace('>', "\\u003e");
    row.replace('&', "\\u0026") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_each_format() {
        let text = |format: Option<&str>| {
            let mut listing = Listing::new(&[("ID", "ID"), ("Name", "NAME")]).more(&[("Size", "SIZE")]);
            listing.row(["1", "a<b", "5B"]);
            listing.text(format)
        };
        let table = "ID        NAME\n1         a<b\n";
        assert_eq!(text(None).unwrap(), table);
        assert_eq!(text(Some("table")).unwrap(), table);
        assert_eq!(
            text(Some("table {{.Size}}\\t{{.ID}}")).unwrap(),
            "SIZE      ID\n5B        1\n"
        );
        let line = "{\"ID\":\"1\",\"Name\":\"a\\u003cb\",\"Size\":\"5B\"}\n";
        assert_eq!(text(Some("json")).unwrap(), line);
        assert_eq!(text(Some("{{.ID}}-{{.Size}}")).unwrap(), "1-5B\n");
        assert!(text(Some("{{.Nope}}")).is_err());
        let mut named = Listing::new(&[("Driver", "DRIVER"), ("Name", "NAME")]);
        named.row(["local", "vol"]);
        assert_eq!(named.names(), "vol\n");
    }
}
