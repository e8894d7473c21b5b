//! Rows whose fields only a template shows, beside the table that is printed without one ([`super::format`]).

use anyhow::Result;
use serde_json::{Map, Value};

use super::format::expand;
use super::table::Table;

/// A row of a list: what a template may name, and the heading of each in a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row(Vec<(&'static str, &'static str, String)>);

impl Row {
    /// Adds a field.
    pub(crate) fn with(
        mut self,
        field: &'static str,
        heading: &'static str,
        value: impl Into<String>,
    ) -> Self {
        self.0.push((field, heading, value.into()));
        self
    }

    fn object(&self, of: impl Fn(&(&'static str, &'static str, String)) -> String) -> Value {
        let members = self
            .0
            .iter()
            .map(|member| (member.0.to_owned(), Value::String(of(member))));
        Value::Object(members.collect::<Map<_, _>>())
    }

    fn cells(&self) -> Value {
        self.object(|member| member.2.clone())
    }
}

/// Prints rows by a template; `headings` stands for the titles of a table.
///
/// # Errors
/// A template that cannot be read, or a field that there is not.
pub(crate) fn print_rows(format: &str, headings: &Row, rows: &[Row]) -> Result<()> {
    let Some(columns) = format.strip_prefix("table ") else {
        for row in rows {
            match format {
                "json" => {
                    // Go writes these three so in JSON, and a script may compare texts.
                    let row = row.cells().to_string();
                    let row = row.replace('<', "\\u003c").replace('>', "\\u003e");
                    println!("{}", row.replace('&', "\\u0026"));
                }
                template => println!("{}", expand(template, &row.cells())?),
            }
        }
        return Ok(());
    };
    let titles = expand(columns, &headings.object(|member| member.1.to_owned()))?;
    let mut table = Table::new(&titles.split('\t').collect::<Vec<_>>());
    for row in rows {
        let line = expand(columns, &row.cells())?;
        table.row(line.split('\t').map(str::to_owned));
    }
    table.print();
    Ok(())
}
